"""The inspector's page of a model: what it is, and where it may be cut."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from app.figures import count_text, layers, size_text
from app.models.description import ModelDescription
from app.sharding.arrangement import StageSizes
from app.ui.board.page import Page
from app.ui.board.ways import StageWays, show_ways
from app.ui.cluster import Cluster, DeploymentView

if TYPE_CHECKING:
    from app.ui.board.board_commands import BoardCommands
    from app.ui.board.board_model import BoardModel


class InspectModel(Page):
    """See the module."""

    def __init__(self, board: BoardModel, commands: BoardCommands, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._board = board
        self._shown: ModelDescription | None = None
        self.facts = self.section("Model")
        self.needs = self.section("Memory to run it")
        self.runs = self.section("How it runs")
        self.cuts = self.section("Cutting")
        self.source = self.section("Source")
        self.column.addSpacing(8)
        self.commands(("Propose a plan", commands.propose))
        self.chat = self.button("Open chat", self._on_chat)
        self.column.addStretch(1)

    def show_model(self, name: str) -> None:
        board = self._board
        model = board.workbench.cluster.model(name)
        if model is None:
            return
        deployed = board.workbench.cluster.deployment_of(name)
        self.chat.setVisible(deployed is not None)
        show_ways(self, self.runs, [] if deployed is None else _stage_ways(board.workbench.cluster, deployed))
        draft = board.drafts.of(name)
        if draft is not None:
            sizes, end = draft.sizes, model.num_layers
            self.needs.show_facts(
                (
                    ("Weights", f"{size_text(sizes.weights(0, end))} in {draft.serving.dtype}"),
                    ("KV", f"{size_text(sizes.kv(0, end))} for {draft.serving.kv_tokens:,} tokens"),
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
                ("Batching", "" if model.batched else "one answer at a time"),
            )
        )
        self.cuts.show_facts((("Allowed", cuts_text(model)), ("Because", " ".join(model.cut_notes))))
        self.source.show_facts(
            (
                ("From", model.origin or model.source),
                ("Folder", model.folder),
                ("Note", " ".join(model.notes)),
            )
        )

    @Slot()
    def _on_chat(self) -> None:
        if self._shown is not None:
            self._board.workbench.navigate.emit("chat", self._shown.name)


def _stage_ways(cluster: Cluster, view: DeploymentView) -> list[StageWays]:
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
