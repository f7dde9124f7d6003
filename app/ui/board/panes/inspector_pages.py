"""The inspector's pages: of a shard of the draft, of a node, of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from app.cluster.machine_figures import machine_facts
from app.errors import ShardboardError
from app.figures import ago, count_text, data_rate, duration, layers, layers_text, size_text
from app.inference.model_defaults import ModelDefaults
from app.models.description import ModelDescription
from app.registry.records import MeasurementRecord
from app.runs.measured import circumstances_text, measured_text
from app.sharding.planning.aims import AIMS
from app.sharding.stage_sizes import StageSizes, kept_for, working_bytes
from app.ui.board.panes.page import Fact, Page
from app.ui.board.panes.stage_ways import StageWays, show_ways
from app.ui.board.state.lanes import BlockKind, LaneSnapshot, unavailable_because
from app.ui.cluster import Cluster
from app.ui.notices import Level
from app.ui.snapshots import DeploymentSnapshot, NodeSnapshot

if TYPE_CHECKING:
    from app.controller import Controller
    from app.ui.board.board_commands import BoardCommands
    from app.ui.board.state.board_model import BoardModel


class InspectModel(Page):
    """What a model is, what it needs to run, how it runs where it is deployed, and where it may be cut."""

    def __init__(self, board: BoardModel, commands: BoardCommands, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._board = board
        self._shown: ModelDescription | None = None
        self.facts = self.section("Model")
        self.needs = self.section("Memory to run it")
        self.runs = self.section("How it runs")
        self.replicas = self.section("Replicas")
        self.measured = self.section("What its numbers cost")
        self.cuts = self.section("Cutting")
        self.source = self.section("Source")
        self.column.addSpacing(8)
        self.commands(("Propose a plan", commands.propose), ("Measure", commands.measure))
        self.chat = self.button("Open chat", self._on_chat)
        self.column.addStretch(1)

    def show_model(self, name: str) -> None:
        board = self._board
        model = board.workbench.cluster.model(name)
        if model is None:
            return
        deployed = board.workbench.cluster.deployment_of(name)
        self.chat.setVisible(deployed is not None)
        ways = [] if deployed is None else _stage_ways(board.workbench.cluster, deployed)
        show_ways(self, self.runs, ways, [] if deployed is None else [_planned_fact(deployed)])
        self.replicas.show_facts(_replica_facts(board.workbench.cluster, deployed))
        measured = board.workbench.cluster.measurements.get(name, ())
        self.measured.show_facts(
            [("Not known", "it was not measured yet")] if not measured else [_measured_fact(each) for each in measured]
        )
        draft = board.drafts.of(name)
        if draft is not None:
            sizes, end = draft.sizes, model.num_layers
            self.needs.show_facts(
                (
                    ("Weights", f"{size_text(sizes.weights(0, end))} in {draft.serving.numbers}"),
                    ("KV", f"{size_text(sizes.kv(0, end))} for {kept_for(model, draft.serving)}"),
                    ("Together", size_text(sizes.memory(0, end))),
                    ("A layer", _layer_sizes(model, sizes)),
                )
            )
        if model is self._shown:
            return
        self._shown = model
        self.title.say(model.name)
        self.subtitle.setText(model.architecture)
        self.facts.show_facts(
            (
                ("Parameters", count_text(model.parameters)),
                ("Layers", str(model.num_layers)),
                ("Stored", f"{size_text(model.weight_bytes)}, {model.dtype}"),
                ("Context", f"{model.max_context:,} tokens"),
                ("Hidden size", f"{model.hidden_size:,}"),
                ("Vocabulary", f"{model.vocab_size:,} tokens"),
                ("Tokenizer", "" if model.has_tokenizer else "none: it takes token ids only"),
                ("Batching", "" if model.batched else "each answer has a pass of its own"),
            )
        )
        self.cuts.show_facts((("Allowed", cuts_text(model)), ("Because", " ".join(model.cut_notes))))
        self._show_source(model, ())
        # What its generation_config.json asks for in vain is found by reading files, which this thread does not.
        call = board.workbench.bridge.call(partial(_vain_wishes, model), "reading the model's parameters")
        call.done.connect(self._on_notes)

    def _show_source(self, model: ModelDescription, notes: Sequence[str]) -> None:
        self.source.show_facts(
            (
                ("From", model.origin or model.source),
                ("Folder", model.folder),
                ("Note", " ".join((*model.notes, *notes))),
            )
        )

    @Slot(object)
    def _on_notes(self, told: tuple[ModelDescription, Sequence[str]]) -> None:
        model, notes = told
        if model is self._shown and notes:
            self._show_source(model, notes)

    @Slot()
    def _on_chat(self) -> None:
        if self._shown is not None:
            self._board.workbench.navigate.emit("chat", self._shown.name)


async def _vain_wishes(
    model: ModelDescription, _controller: Controller, _report: object
) -> tuple[ModelDescription, Sequence[str]]:
    defaults = await asyncio.to_thread(ModelDefaults.shown, model.path)
    return model, defaults.notes


def _measured_fact(record: MeasurementRecord) -> Fact:
    text = f"{measured_text(record)} ({circumstances_text(record)})"
    return record.serving.numbers, f"{text}. {record.remark}" if record.remark else text


def _replica_facts(cluster: Cluster, deployed: DeploymentSnapshot | None) -> list[tuple[str, str]]:
    """What shares a deployment's requests: where it differs from it."""
    if deployed is None:
        return [("None", "it is not deployed")]
    own = {(shard.shard_id, shard.node_id) for shard in deployed.shards}
    found = []
    for number, view in enumerate(cluster.replicas_of(deployed), 1):
        there = [shard for shard in view.shards if (shard.shard_id, shard.node_id) not in own]
        where = (
            f"{layers(shard.start_layer, shard.end_layer)} on {cluster.nodes[shard.node_id].name}"
            for shard in there
            if shard.node_id in cluster.nodes
        )
        found.append((f"{number}", f"{', '.join(where)}; shares the requests, and takes over when a stage is lost"))
    return found or [("None", "move a shard to a second node and choose Add replica")]


def _planned_fact(deployed: DeploymentSnapshot) -> Fact:
    aim = AIMS.get(deployed.record.aim)
    return "Planned for", "no aim: placed by hand" if aim is None else aim


def _stage_ways(cluster: Cluster, view: DeploymentSnapshot) -> list[StageWays]:
    """Of the stages of which something is heard, with how they are named where they differ."""
    return [
        (f"{cluster.nodes[shard.node_id].name}, {layers(shard.start_layer, shard.end_layer)}", ways)
        for shard, ways in cluster.ways(view)
        if shard.node_id is not None
    ]


def cuts_text(model: ModelDescription) -> str:
    """Where a model may be cut, in words."""
    if len(model.cuts) == model.num_layers - 1:
        return "between any two layers" if model.cuts else "nowhere: it has one layer"
    if not model.cuts:
        return "nowhere"
    steps = {after - before for before, after in pairwise(model.cuts)}
    if len(steps) == 1 and len(model.cuts) > 3:
        return f"before every {steps.pop()} layers, from layer {model.cuts[0]} to {model.cuts[-1]}"
    shown = ", ".join(map(str, model.cuts[:12]))
    return f"before layers {shown}{' …' if len(model.cuts) > 12 else ''}"


def _layer_sizes(model: ModelDescription, sizes: StageSizes) -> str:
    """Of layers in the middle, where no end of the model counts."""
    inner = [sizes.memory(layer, layer + 1) for layer in range(1, model.num_layers - 1)]
    if not inner:
        return ""
    least, most = size_text(min(inner)), size_text(max(inner))
    return least if least == most else f"{least} to {most}"


class InspectNode(Page):
    """What a node has, what it holds, and how its link is."""

    def __init__(self, board: BoardModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._board = board
        self._node: int | None = None
        self.memory = self.section("Memory for stages")
        self.process = self.section("Its process")
        self.stages = self.section("Shards")
        self.link = self.section("Node")
        self.machine = self.section("What its machine can do")
        self.column.addSpacing(8)
        self.place = self.button("Place the whole model here", self._on_place)
        self.empty = self.button("Take its shards off", self._on_empty)
        self.show_there = self.button("Show in Nodes", self._on_show)
        self.column.addStretch(1)

    def show_node(self, node_id: int) -> None:
        lane = self._board.lane(node_id)
        if lane is None:
            return
        self._node = node_id
        view = lane.node
        self.title.say(view.name)
        why = unavailable_because(view)
        self.subtitle.setText(f"{view.chip}\n{why[:1].upper() + why[1:]}" if why else view.chip)
        self._show_memory(lane)
        self.process.show_facts(process_facts(lane), PROCESS_TIPS, {"Note"})
        self.stages.show_facts(_shard_facts(lane))
        speed = self._board.memory.speed(view, self._dtype())
        self.link.show_facts(
            (
                ("State", view.state.value),
                ("Address", view.record.address.removeprefix("tcp://")),
                ("Round trip", duration(view.rtt) if view.rtt is not None else ""),
                ("Reads weights", data_rate(speed.read_bytes_per_second) if speed is not None else ""),
                ("Last seen", ago(view.record.last_heartbeat)),
            )
        )
        facts = machine_facts(view.record.capacities)
        self.machine.show_facts(facts)
        self.show_section(self.machine, bool(facts))
        self._show_buttons(lane, view)

    def _dtype(self) -> str:
        draft = self._board.arrangement
        return draft.serving.dtype if draft is not None else "float32"

    def _show_memory(self, lane: LaneSnapshot) -> None:
        mine = [block for block in lane.blocks if block.kind is not BlockKind.OTHER]
        others = [block for block in lane.blocks if block.kind is BlockKind.OTHER]
        self.memory.show_facts(
            (
                ("Weights", size_text(sum(block.weight_bytes for block in mine)) if mine else ""),
                ("KV", size_text(sum(block.kv_bytes for block in mine)) if mine else ""),
                ("Others", size_text(sum(block.memory for block in others)) if others else ""),
                ("Free", size_text(lane.free) if not lane.shortage else ""),
                ("Missing", size_text(lane.shortage) if lane.shortage else ""),
                ("In all", size_text(lane.budget)),
            )
        )

    def _show_buttons(self, lane: LaneSnapshot, view: NodeSnapshot) -> None:
        name = self._board.model_name
        self.place.setVisible(name is not None)
        if name is not None:
            verdict = self._board.judge_model(name, view.id)
            self.place.setEnabled(verdict.allowed)
            self.place.setToolTip(f"{name} {verdict.text}")
        self.empty.setVisible(any(block.stage is not None for block in lane.blocks))
        self.empty.setEnabled(not self._board.is_deploying)

    @Slot()
    def _on_place(self) -> None:
        name = self._board.model_name
        if name is None or self._node is None:
            return
        try:
            self._board.place_model(name, self._node)
        except ShardboardError as error:
            self._board.workbench.notices.toast(str(error), Level.WARNING)

    @Slot()
    def _on_empty(self) -> None:
        if self._node is None:
            return
        try:
            self._board.empty_node(self._node)
        except ShardboardError as error:
            self._board.workbench.notices.toast(str(error), Level.WARNING)

    @Slot()
    def _on_show(self) -> None:
        self._board.workbench.navigate.emit("nodes", self._node)


PROCESS_TIPS = {
    "Agent itself": "What the agent's program takes without any layers. It is no part of the memory for stages.",
    "Expected": "The agent itself, the weights, keys and values of the shards shown here, and what computing takes.",
    "Accounted": "The agent itself, its weights and recordings, and the keys and values of this moment.",
    "Holds": "What its process really takes, as the system says.",
}


def process_facts(lane: LaneSnapshot) -> list[Fact]:
    """What the agent's process takes of main memory: expected with the draft, accounted for now, held now."""
    view, report = lane.node, lane.node.report
    blocks = sum(block.memory for block in lane.blocks)
    besides = working_bytes(sum(block.end - block.start for block in lane.blocks), on_gpu=view.known.on_gpu)
    expected = view.known.agent_memory + besides + (0 if view.known.on_gpu else blocks)
    facts = [
        ("Agent itself", size_text(view.known.agent_memory) if view.known.agent_memory else ""),
        ("Expected", f"{size_text(expected)} once caches are full" if view.known.agent_memory and lane.blocks else ""),
    ]
    if report is not None:
        facts.append(("Accounted", f"{size_text(report.memory_held)} now"))
        facts.append(("Holds", f"{size_text(report.process_memory)} now"))
    return [*facts, ("Note", view.memory_problem)]


def _shard_facts(lane: LaneSnapshot) -> list[tuple[str, str]]:
    facts = []
    for block in lane.blocks:
        name = f"Shard {block.stage + 1}" if block.stage is not None else block.label
        text = f"{layers(block.start, block.end)}, {size_text(block.memory)}"
        facts.append((name, text + (", not loaded" if block.kind is BlockKind.PROPOSED else "")))
    return facts or [("None", "nothing is placed here")]


class InspectStage(Page):
    """Layers, bytes, node and share of a token's time. Its buttons are the screen's commands for the selected shard."""

    def __init__(self, board: BoardModel, commands: BoardCommands, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._board = board
        self.facts = self.section("Shard")
        self.memory = self.section("Memory")
        self.runs = self.section("How it runs")
        self.column.addSpacing(8)
        self.commands(("Node before", commands.previous_node), ("Next node", commands.next_node))
        self.commands(("End earlier", commands.boundary_earlier), ("End later", commands.boundary_later))
        self.commands(("Split", commands.split), ("Merge", commands.merge))
        self.commands(("Take off its node", commands.unplace))
        self.column.addStretch(1)

    def show_stage(self, stage: int) -> None:
        draft = self._board.arrangement
        if draft is None:
            return
        piece = draft.pieces[stage]
        node = self._board.workbench.cluster.nodes.get(piece.node_id) if piece.node_id is not None else None
        last = draft.description.num_layers
        ends = [text for text, here in (("embedding", piece.start == 0), ("norm and head", piece.end == last)) if here]
        self.title.say(f"Shard {stage + 1} of {len(draft.pieces)}")
        self.subtitle.setText(draft.model_name)
        self.facts.show_facts(
            (
                ("Layers", f"{layers_text(piece.start, piece.end)} ({piece.end - piece.start} of {last})"),
                ("Also holds", ", ".join(ends)),
                ("Node", node.name if node is not None else "not placed yet"),
                ("State", "loaded" if self._board.is_loaded else "in the draft, not loaded"),
                ("Time", self._time_of(stage)),
            )
        )
        self.memory.show_facts(
            (
                ("Weights", f"{size_text(draft.weights(stage))} in {draft.serving.numbers}"),
                ("KV", f"{size_text(draft.kv(stage))} for {kept_for(draft.description, draft.serving)}"),
                ("Together", size_text(draft.memory(stage))),
            )
        )
        cluster = self._board.workbench.cluster
        loaded = cluster.deployment_of(draft.model_name) if self._board.is_loaded else None
        told = () if loaded is None else cluster.ways(loaded)
        own = (piece.start, piece.end)
        show_ways(self, self.runs, [("", ways) for shard, ways in told if (shard.start_layer, shard.end_layer) == own])

    def _time_of(self, stage: int) -> str:
        """Predicted for the stages that are loaded, which neighbours on one node share."""
        draft, prediction = self._board.arrangement, self._board.prediction
        if draft is None or prediction is None:
            return ""
        start = draft.pieces[stage].start
        loaded = next(number for number, (_, end) in enumerate(draft.ranges) if start < end)
        slowest = ", the slowest" if loaded == prediction.slowest_stage and len(prediction.share) > 1 else ""
        return f"{prediction.share[loaded]:.0%} of a token's time{slowest}"
