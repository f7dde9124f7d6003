"""The inspector's page of a shard of the draft: its layers, its bytes, its node, its share of a token's time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtWidgets import QWidget

from app.figures import layers_text, size_text
from app.ui.board.page import Page
from app.ui.board.ways import show_ways

if TYPE_CHECKING:
    from app.ui.board.board_commands import BoardCommands
    from app.ui.board.board_model import BoardModel


class InspectStage(Page):
    """See the module. Its buttons are the screen's commands for the selected shard."""

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
                ("Weights", f"{size_text(draft.weights(stage))} in {draft.serving.dtype}"),
                ("KV", f"{size_text(draft.kv(stage))} for {draft.serving.kv_tokens:,} tokens"),
                ("Together", size_text(draft.memory(stage))),
            )
        )
        cluster = self._board.workbench.cluster
        loaded = cluster.deployment_of(draft.model_name) if self._board.is_loaded else None
        told = () if loaded is None else cluster.ways(loaded)
        layers = (piece.start, piece.end)
        show_ways(
            self, self.runs, [("", ways) for shard, ways in told if (shard.start_layer, shard.end_layer) == layers]
        )

    def _time_of(self, stage: int) -> str:
        """Predicted for the stages that are loaded, which neighbours on one node share."""
        draft, prediction = self._board.arrangement, self._board.prediction
        if draft is None or prediction is None:
            return ""
        start = draft.pieces[stage].start
        loaded = next(number for number, (_, end) in enumerate(draft.ranges) if start < end)
        slowest = ", the slowest" if loaded == prediction.slowest_stage and len(prediction.share) > 1 else ""
        return f"{prediction.share[loaded]:.0%} of a token's time{slowest}"
