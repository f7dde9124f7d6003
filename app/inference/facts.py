"""What is written into a trace besides times: the software, the model, the plan, and the nodes as they are now."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Sequence
from importlib import metadata

from app.cluster.nodes import NodeDirectory
from app.inference.pipeline import Pipeline
from app.models.description import ModelDescription
from app.models.library import ModelLibrary
from app.registry import DeploymentRecord
from app.runs.trace import ModelFacts, NodeFacts, NodeMemory, Plan, StagePlan, StageWay, Versions
from app.sharding.placement import Placement
from worker_agent import __version__
from worker_agent.wire.messages import WIRE_VERSION, HealthReport, StageInfo, Welcome

PACKAGES = ("tokenizers", "jinja2", "llguidance", "msgspec", "pyzmq", "numpy", "peewee")
"""Of the controller's packages, those that can change what a run brings or how long it takes."""


@functools.cache
def versions() -> Versions:
    """The software of this process; the same as long as it runs."""
    return Versions(
        shardboard=__version__,
        python=platform.python_version(),
        system=f"{platform.platform()} ({sys.platform})",
        wire=WIRE_VERSION,
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


class FactFinder:
    """Gathers facts from what the controller knows already: no node is asked, no file is hashed."""

    def __init__(self, nodes: NodeDirectory, library: ModelLibrary) -> None:
        self._nodes, self._library = nodes, library

    def model(self, description: ModelDescription) -> ModelFacts:
        """Reads the file of the model's digests once; call it in a thread."""
        return ModelFacts(
            name=description.name,
            architecture=description.architecture,
            source=description.origin or description.source,
            layers=description.num_layers,
            parameters=description.parameters,
            dtype=description.dtype,
            content=self._library.digests(description).content(),
        )

    def plan(self, record: DeploymentRecord, pipeline: Pipeline, placement: Placement | None = None) -> Plan:
        """Where a deployment's layers are.

        Args:
            placement: what was computed for it; in place of what nodes have not told of yet.
        """
        held = {node: self._held(node) for node in {stage.node_id for stage in pipeline.stages}}

        def told(node: int, stage: int) -> StageInfo | None:
            found = (info for info in held[node] if info.deployment == record.id and info.stage == stage)
            return next(found, None)

        stages = []
        for stage in pipeline.stages:
            info = told(stage.node_id, stage.stage)
            placed = None if placement is None else placement.stages[stage.stage]
            stages.append(
                StagePlan(
                    stage=stage.stage,
                    node_id=stage.node_id,
                    node=stage.node_name,
                    start=stage.start,
                    end=stage.end,
                    weight_bytes=info.weight_bytes if info else placed.weight_bytes if placed else 0,
                    kv_bytes=info.kv_bytes if info else placed.kv_bytes if placed else 0,
                    ways=tuple(
                        StageWay(name=way.name, used=way.used, possible=way.possible, why=way.why) for way in stage.ways
                    ),
                )
            )
        return Plan.of(record, stages, pipeline.epoch)

    def nodes(self, node_ids: Sequence[int]) -> tuple[NodeFacts, ...]:
        """Each once, in the order in which they come first."""
        facts = []
        for node_id in dict.fromkeys(node_ids):
            link = self._nodes.links().get(node_id)
            if link is not None:
                facts.append(_facts(node_id, link.hostname, link.address, link.welcome))
        return tuple(facts)

    def memory(self, node_ids: Sequence[int]) -> tuple[NodeMemory, ...]:
        """What the nodes said of their memory with their last heartbeat."""
        reports = {node: self._report(node) for node in dict.fromkeys(node_ids)}
        return tuple(
            NodeMemory(
                node_id=node,
                process=report.process_memory,
                used=report.memory_used,
                budget=report.memory_budget,
                available=report.memory_available,
                believed=report.memory_held,
                agent=report.memory_base,
            )
            for node, report in reports.items()
            if report is not None
        )

    def _report(self, node: int) -> HealthReport | None:
        latest = self._nodes.health.latest(node)
        return None if latest is None else latest.report

    def _held(self, node: int) -> tuple[StageInfo, ...]:
        report = self._report(node)
        if report is not None and report.stages:
            return report.stages
        link = self._nodes.links().get(node)
        return () if link is None or link.welcome is None else link.welcome.stages


def _facts(node_id: int, name: str, address: str, welcome: Welcome | None) -> NodeFacts:
    if welcome is None:
        return NodeFacts(node_id=node_id, name=name, address=address)
    return NodeFacts(
        node_id=node_id,
        name=name,
        address=address,
        system=welcome.system,
        cpu=f"{welcome.cpu_name}, {welcome.cpu_count} threads",
        device=welcome.numerics.device,
        threads=welcome.numerics.threads,
        software=welcome.software,
        torch=welcome.numerics.torch,
        transformers=welcome.numerics.transformers,
        memory_total=welcome.memory_total,
        memory_budget=welcome.memory_budget,
    )
