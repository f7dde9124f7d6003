"""What the window knows of the cluster right now: nodes, models, deployments, and ten minutes of each node's figures.

A mirror in the GUI thread, fed by the bridge; screens read it and listen to its signals, and change nothing here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal, Slot

from app.cluster.ghosts import Ghost, ghosts_of
from app.cluster.node_state import Heard
from app.registry.records import (
    ComparisonRecord,
    LinkRecord,
    MeasurementRecord,
    NodeRecord,
    ShardRecord,
)
from app.ui import make
from app.ui.lists import Lists, read_lists
from app.ui.snapshots import DeploymentSnapshot, NodeSnapshot

if TYPE_CHECKING:
    from app.cluster.health import NodeEvent
    from app.inference.events import StepPassed
    from app.launchers.launcher import Brought
    from app.models.description import ModelDescription
    from app.ui.bridge import Bridge
    from worker_agent.wire.messages import HealthReport, Way

HISTORY = 600
"""Samples kept for each node: ten minutes at one a second."""
RATE_SECONDS = 2.0
"""Tokens per second are counted over so long."""
TABLES = frozenset({"node", "model", "deployment", "measurement", "link", "comparison"})
"""Of the registry: those that are mirrored."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One second of a node's life. What is not known is None."""

    at: float
    """time.time()"""
    cpu: float | None
    """Percent of all cores."""
    memory: float | None
    """Bytes of the machine that are in use."""
    gpu: float | None
    """Percent, of the busiest GPU."""
    gpu_memory: float | None
    """Bytes in use on all GPUs."""
    tokens_per_second: float
    step_ms: float | None
    """Compute time of a step on this node, averaged over the second; None while idle."""
    rtt_ms: float | None


@dataclass(frozen=True, slots=True)
class Activity:
    """What went through a deployment since the last news of it."""

    deployment: str
    steps: int
    tokens: int
    compute_us: tuple[int, ...]
    """Of each stage, summed."""
    queue_us: tuple[int, ...]


@dataclass
class _Meter:
    """Counts what passes a node or a deployment."""

    tokens: deque[tuple[float, int]] = field(default_factory=deque)
    compute_us: int = 0
    steps: int = 0

    def rate(self, now: float) -> float:
        while self.tokens and self.tokens[0][0] < now - RATE_SECONDS:
            self.tokens.popleft()
        return sum(count for _, count in self.tokens) / RATE_SECONDS


class Cluster(QObject):
    """Nodes, models and deployments as they are known now; a signal tells which of them are others."""

    loaded = Signal()
    """The first lists are there."""
    nodes_reset = Signal()
    """Nodes came or went, or their order changed."""
    nodes_changed = Signal(object)
    """A frozenset of ids whose NodeSnapshot is another now (about once a second for each)."""
    models_changed = Signal()
    deployments_changed = Signal()
    measurements_changed = Signal()
    links_changed = Signal()
    comparisons_changed = Signal()
    activity = Signal(object)
    """A tuple of Activity, at most 30 times a second."""

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.is_loaded = False
        self.nodes: dict[int, NodeSnapshot] = {}
        """By id, in the registry's order."""
        self.models: tuple[ModelDescription, ...] = ()
        self.deployments: tuple[DeploymentSnapshot, ...] = ()
        """Loading and ready ones, newest first."""
        self.measurements: dict[str, tuple[MeasurementRecord, ...]] = {}
        """By model, of those that were measured: the newest in each kind of numbers."""
        self.links: tuple[LinkRecord, ...] = ()
        self.comparisons: tuple[ComparisonRecord, ...] = ()
        """Of what was predicted with what came; both the newest first."""
        self._bridge = bridge
        self._history: dict[int, deque[Sample]] = {}
        self._node_meters: dict[int, _Meter] = {}
        self._meters: dict[str, _Meter] = {}
        self._stage_nodes: dict[str, tuple[int | None, ...]] = {}
        self._stale: set[str] = set()
        self._loading = False
        self._reload = make.timer(self, self._load, 50)
        bridge.opened.connect(self._on_opened)
        bridge.node_events.connect(self.take_node_events)
        bridge.tables_changed.connect(self._on_tables_changed)
        bridge.steps.connect(self.take_steps)

    # --- what screens ask ---

    def history(self, node: int) -> tuple[Sample, ...]:
        """The last ten minutes, oldest first."""
        return tuple(self._history.get(node, ()))

    def tokens_per_second(self, deployment: str | None = None) -> float:
        """Of one deployment, or of all together, over the last two seconds."""
        now = time.monotonic()
        if deployment is not None:
            meter = self._meters.get(deployment)
            return meter.rate(now) if meter is not None else 0.0
        return sum(meter.rate(now) for meter in self._meters.values())

    def model(self, name: str) -> ModelDescription | None:
        return next((model for model in self.models if model.name == name), None)

    def deployment_of(self, model: str) -> DeploymentSnapshot | None:
        """The ready deployment of a model that requests come to."""
        ready = [view for view in self.deployments if view.is_ready and view.record.model_name == model]
        return next((view for view in ready if view.record.id == ready[0].record.group), ready[0]) if ready else None

    def replicas_of(self, view: DeploymentSnapshot) -> tuple[DeploymentSnapshot, ...]:
        """Those that share a deployment's requests."""
        return tuple(
            each
            for each in self.deployments
            if each.is_ready and each.record.group == view.record.group and each.record.id != view.record.id
        )

    def ways(self, view: DeploymentSnapshot) -> tuple[tuple[ShardRecord, tuple[Way, ...]], ...]:
        """How each stage of a deployment runs, as its agent says; those of which nothing is heard are left out."""
        found = []
        for shard in view.shards:
            node = self.nodes.get(shard.node_id) if shard.node_id is not None else None
            told = node.stage(view.record.id, shard.shard_id) if node is not None else None
            if told is not None:
                found.append((shard, told.ways))
        return tuple(found)

    def deployments_on(self, node: int) -> tuple[DeploymentSnapshot, ...]:
        return tuple(
            view for view in self.deployments if view.is_ready and any(shard.node_id == node for shard in view.shards)
        )

    def ghosts(self) -> dict[int, Ghost]:
        """The nodes that will hardly come back, by their ids."""
        views = self.nodes.values()
        found = ghosts_of([view.record for view in views], {view.id: view.heard for view in views})
        return {ghost.node_id: ghost for ghost in found}

    def take_heard(self, node: int, heard: Heard) -> None:
        """Show at once what the controller is about to tell: an agent that is being started, or does not run."""
        if (view := self.nodes.get(node)) is not None:
            self.nodes[node] = replace(view, heard=heard)
            self.nodes_changed.emit(frozenset({node}))

    # --- what comes in ---

    @Slot()
    def _on_opened(self) -> None:
        self._stale = set(TABLES)
        self._load()

    @Slot(object)
    def _on_tables_changed(self, nouns: frozenset[str]) -> None:
        wanted = {"deployment" if noun == "shard" else noun for noun in nouns} & TABLES
        wanted |= {"measurement"} if "model" in wanted else set()  # they go with it
        wanted |= {"link", "comparison"} if "node" in wanted else set()
        if wanted:
            self._stale |= wanted
            if not self._reload.isActive():
                self._reload.start()

    @Slot()
    def _load(self) -> None:
        if self._loading or not self._bridge.is_open:
            return
        stale, self._stale = frozenset(self._stale), set()
        if not stale:
            return
        self._loading = True
        call = self._bridge.call(lambda controller, report: read_lists(controller, stale), "reading the registry")
        call.done.connect(self._on_lists)
        call.ended.connect(self._on_read)

    @Slot()
    def _on_read(self) -> None:
        self._loading = False
        if self._stale:
            self._reload.start()

    @Slot(object)
    def _on_lists(self, lists: Lists) -> None:
        self.take_lists(lists)

    def take_lists(self, lists: Lists) -> None:
        """Replace what is given; None leaves a list as it is."""
        if lists.nodes is not None:
            self._take_nodes(lists.nodes, lists.brought)
        if lists.models is not None and lists.models != self.models:
            self.models = lists.models
            self.models_changed.emit()
        if lists.deployments is not None and lists.deployments != self.deployments:
            self.deployments = lists.deployments
            self._stage_nodes = {
                view.record.id: tuple(shard.node_id for shard in view.shards) for view in self.deployments
            }
            self._meters = {id: meter for id, meter in self._meters.items() if id in self._stage_nodes}
            self.deployments_changed.emit()
        if lists.measurements is not None and lists.measurements != self.measurements:
            self.measurements = lists.measurements
            self.measurements_changed.emit()
        if lists.links is not None and lists.links != self.links:
            self.links = lists.links
            self.links_changed.emit()
        if lists.comparisons is not None and lists.comparisons != self.comparisons:
            self.comparisons = lists.comparisons
            self.comparisons_changed.emit()
        if not self.is_loaded:
            self.is_loaded = True
            self.loaded.emit()

    def _take_nodes(self, records: tuple[NodeRecord, ...], brought: Mapping[int, Brought]) -> None:
        before = list(self.nodes)
        fresh: dict[int, NodeSnapshot] = {}
        changed = set()
        for record in records:
            known, launched = self.nodes.get(record.id), brought.get(record.id)
            launcher, lost = (None, "") if launched is None else (launched.launcher, launched.gone)
            if known is None:
                fresh[record.id] = NodeSnapshot(record, Heard(gone=lost), launcher=launcher)
            else:
                heard = replace(known.heard, gone=lost)
                fresh[record.id] = replace(known, record=record, heard=heard, launcher=launcher)
                if fresh[record.id] != known:
                    changed.add(record.id)
        self.nodes = fresh
        for gone in set(before) - set(fresh):
            self._history.pop(gone, None)
            self._node_meters.pop(gone, None)
        if before != list(fresh):
            self.nodes_reset.emit()
        elif changed:
            self.nodes_changed.emit(frozenset(changed))

    @Slot(object)
    def take_node_events(self, events: Iterable[NodeEvent]) -> None:
        """What happened to nodes, oldest first. A node that the lists do not have yet is passed over."""
        from app.cluster.health import NodeDown, NodeHealth, NodeMemoryJudged, NodeUp, heard_after

        changed = set()
        for event in events:
            view = self.nodes.get(event.node)
            if view is None:
                self._on_tables_changed(frozenset({"node"}))
                continue
            view = replace(view, heard=heard_after(view.heard, event))
            match event:
                case NodeHealth():
                    view = replace(view, report=event.report, rtt=event.rtt)
                    self._sample(event.node, event.at.timestamp(), event.report, event.rtt)
                case NodeDown():
                    view = replace(view, rtt=None)
                case NodeMemoryJudged():
                    view = replace(view, memory_problem=event.text if event.differs else "")
                case NodeUp():
                    view = replace(view, memory_problem="" if event.restarted else view.memory_problem)
            self.nodes[event.node] = view
            changed.add(event.node)
        if changed:
            self.nodes_changed.emit(frozenset(changed))

    def _sample(self, node: int, at: float, report: HealthReport, rtt: float) -> None:
        meter = self._node_meters.setdefault(node, _Meter())
        step = meter.compute_us / meter.steps / 1000 if meter.steps else None
        meter.compute_us = meter.steps = 0
        loads = [gpu.load for gpu in report.gpus if gpu.load is not None]
        gpu_memory = sum(gpu.memory_total - gpu.memory_free for gpu in report.gpus) if report.gpus else None
        sample = Sample(
            at=at,
            cpu=report.cpu_percent,
            memory=float(report.memory_total - report.memory_available),
            gpu=max(loads) if loads else None,
            gpu_memory=float(gpu_memory) if gpu_memory is not None else None,
            tokens_per_second=meter.rate(time.monotonic()),
            step_ms=step,
            rtt_ms=rtt * 1000,
        )
        self._history.setdefault(node, deque(maxlen=HISTORY)).append(sample)

    @Slot(object)
    def take_steps(self, steps: Iterable[StepPassed]) -> None:
        """What went through the pipelines since the last time."""
        now = time.monotonic()
        sums: dict[str, tuple[int, int, list[int], list[int]]] = {}
        for step in steps:
            count, tokens, compute, queue = sums.get(step.deployment, (0, 0, [], []))
            for time_of in step.times:
                while len(compute) <= time_of.stage:
                    compute.append(0)
                    queue.append(0)
                compute[time_of.stage] += time_of.compute_us
                queue[time_of.stage] += time_of.queue_us
            sums[step.deployment] = (count + 1, tokens + step.tokens, compute, queue)
        for deployment, (count, tokens, compute, _) in sums.items():
            self._meters.setdefault(deployment, _Meter()).tokens.append((now, tokens))
            nodes = self._stage_nodes.get(deployment, ())
            for node in {node for node in nodes if node is not None}:
                meter = self._node_meters.setdefault(node, _Meter())
                meter.tokens.append((now, tokens))
                meter.steps += count
                meter.compute_us += sum(us for owner, us in zip(nodes, compute, strict=False) if owner == node)
        self.activity.emit(
            tuple(
                Activity(deployment, count, tokens, tuple(compute), tuple(queue))
                for deployment, (count, tokens, compute, queue) in sums.items()
            )
        )
