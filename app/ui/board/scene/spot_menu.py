"""What can be done with a stage or a node, as menus: every drag has an entry here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QWidget

from app.ui.board.state.lanes import Selection
from app.ui.icons import icon

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel

Work = Callable[[], object]
Attempt = Callable[[str, Work], object]
"""Does something; what failed is a heading for the refusal that is told."""


class SpotMenu(QMenu):
    """A menu of the board. Entries that are not possible say why not."""

    def __init__(self, board: BoardModel, attempt: Attempt, parent: QWidget) -> None:
        super().__init__(parent)
        self.setToolTipsVisible(True)
        self.aboutToHide.connect(self.deleteLater)
        self._board, self._attempt = board, attempt

    def entry(self, text: str, picture: str, what: str, work: Work, *, why_not: str = "") -> QAction:
        return self._add(self, text, picture, what, work, why_not)

    def _add(self, menu: QMenu, text: str, picture: str, what: str, work: Work, why_not: str) -> QAction:
        action = QAction(icon(picture), text.replace("&", "&&"), menu)
        action.setEnabled(not why_not)
        if why_not:
            action.setToolTip(why_not[:1].upper() + why_not[1:])
        action.triggered.connect(lambda: self._attempt(what, work))
        menu.addAction(action)
        return action

    def add_stage(self, stage: int) -> None:
        """Everything that can be done with a shard of the draft."""
        board = self._board
        last = len(board.pipeline()) - 1
        self._add_targets(stage)
        if last > 0:
            swap = self.addMenu(icon("arrow-left-right"), "Swap with")
            for other, node_id in enumerate(board.pipeline()):
                if other != stage:
                    text = f"Shard {other + 1}{self._on(node_id)}"
                    self._add(
                        swap, text, "layers", "The shards could not be swapped",
                        partial(board.swap_shards, stage, other), "",
                    )  # fmt: skip
        self.addSeparator()
        if stage < last:
            self._add_boundary(stage, "end", 1)
            self._add_boundary(stage, "end", -1)
        if stage > 0:
            self._add_boundary(stage - 1, "start", 1)
            self._add_boundary(stage - 1, "start", -1)
        self.addSeparator()
        draft = board.arrangement
        whole = draft is None or not draft.cuts_within(stage)
        self.entry(
            "Split in two", "split", "The shard could not be split", lambda: board.split_stage(stage),
            why_not="it cannot be cut any further" if whole else "",
        )  # fmt: skip
        if stage < last:
            self.entry("Merge with the next", "merge", "The shards could not be merged",
                       lambda: board.merge_stages(stage))  # fmt: skip
        if stage > 0:
            self.entry("Merge with the one before", "merge", "The shards could not be merged",
                       lambda: board.merge_stages(stage - 1))  # fmt: skip
        self.entry("Take off its node", "package", "The shard could not be taken off", lambda: board.unplace(stage))
        self.addSeparator()

    def add_node(self, node_id: int) -> None:
        """What can be done with a node."""
        board, workbench = self._board, self._board.workbench
        name = board.model_name
        if name is not None:
            verdict = board.judge_model(name, node_id)
            self.entry(f"Place all of {name} here", "box", f"{name} could not be placed",
                       lambda: board.place_model(name, node_id),
                       why_not="" if verdict.allowed else verdict.text)  # fmt: skip
        self.entry("Inspect node", "search", "The node could not be shown",
                   lambda: board.select(Selection(node_id=node_id, model=name)))  # fmt: skip
        self.entry("Show in Nodes", "server", "The node could not be shown",
                   lambda: workbench.navigate.emit("nodes", node_id))  # fmt: skip
        if name is not None and workbench.cluster.deployment_of(name) is not None:
            self.addSeparator()
            self.entry(f"Undeploy {name}", "power-off", f"{name} could not be taken down", board.undeploy)

    def _add_targets(self, stage: int) -> None:
        board = self._board
        move = self.addMenu(icon("move"), "Move shard to")
        for lane in board.lanes():
            if lane.node.id == board.pipeline()[stage]:
                continue
            verdict = board.judge_shard(stage, lane.node.id)
            text = lane.node.name if verdict.allowed else f"{lane.node.name} – {verdict.text}"
            self._add(
                move, text, "server", f"Shard {stage + 1} could not be moved",
                partial(board.move_shard, stage, lane.node.id), "" if verdict.allowed else verdict.text,
            )  # fmt: skip
        move.setEnabled(not move.isEmpty())

    def _add_boundary(self, boundary: int, which: str, direction: int) -> None:
        board = self._board
        layer = next_cut(board.allowed_cuts(boundary), board.boundaries()[boundary], direction)
        text = f"Move its {which} one layer {'later' if direction > 0 else 'earlier'}"
        why = "there is no cut there"
        if layer is not None:
            verdict = board.judge_boundary(boundary, layer)
            why = "" if verdict.allowed else verdict.text
        self.entry(
            text, "chevron-right" if direction > 0 else "chevron-left", "The boundary could not be moved",
            lambda: board.move_boundary(boundary, layer if layer is not None else -1), why_not=why,
        )  # fmt: skip

    def _on(self, node_id: int | None) -> str:
        view = self._board.workbench.cluster.nodes.get(node_id) if node_id is not None else None
        return f" on {view.name}" if view is not None else ""


def next_cut(cuts: tuple[int, ...], layer: int, direction: int) -> int | None:
    """The nearest allowed cut before or after where the boundary stands."""
    if direction > 0:
        return min((cut for cut in cuts if cut > layer), default=None)
    return max((cut for cut in cuts if cut < layer), default=None)
