"""The inspector's page of a node: its chip, its memory as a table, its link, what it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from app.errors import ShardboardError
from app.figures import ago, data_rate, duration, layers, size_text
from app.ui.board.facts import Fact
from app.ui.board.lanes import BlockKind, LaneView, unavailable_because
from app.ui.board.page import Page
from app.ui.cluster import NodeView
from app.ui.notices import Level

if TYPE_CHECKING:
    from app.ui.board.board_model import BoardModel


class InspectNode(Page):
    """See the module."""

    def __init__(self, board: BoardModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._board = board
        self._node: int | None = None
        self.memory = self.section("Memory for stages")
        self.process = self.section("Its process")
        self.stages = self.section("Shards")
        self.link = self.section("Node")
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
        self._show_buttons(lane, view)

    def _dtype(self) -> str:
        draft = self._board.arrangement
        return draft.serving.dtype if draft is not None else "float32"

    def _show_memory(self, lane: LaneView) -> None:
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

    def _show_buttons(self, lane: LaneView, view: NodeView) -> None:
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
    "Expected": "The agent itself with the weights, keys and values of the shards shown here.",
    "Accounted": "The agent itself, its weights, and the keys and values of this moment.",
    "Holds": "What its process really takes, as the system says.",
}


def process_facts(lane: LaneView) -> list[Fact]:
    """What the agent's process takes of main memory: expected with the draft, accounted for now, held now."""
    view, report = lane.node, lane.node.report
    blocks = sum(block.memory for block in lane.blocks)
    expected = view.agent_memory + (0 if view.on_gpu else blocks)
    facts = [
        ("Agent itself", size_text(view.agent_memory) if view.agent_memory else ""),
        ("Expected", f"{size_text(expected)} once caches are full" if view.agent_memory and lane.blocks else ""),
    ]
    if report is not None:
        facts.append(("Accounted", f"{size_text(report.memory_held)} now"))
        facts.append(("Holds", f"{size_text(report.process_memory)} now"))
    return [*facts, ("Note", view.memory_problem)]


def _shard_facts(lane: LaneView) -> list[tuple[str, str]]:
    facts = []
    for block in lane.blocks:
        name = f"Shard {block.stage + 1}" if block.stage is not None else block.label
        text = f"{layers(block.start, block.end)}, {size_text(block.memory)}"
        facts.append((name, text + (", not loaded" if block.kind is BlockKind.PROPOSED else "")))
    return facts or [("None", "nothing is placed here")]
