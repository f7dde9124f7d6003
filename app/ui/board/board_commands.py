"""Everything the board can do, as actions: for its menu, its buttons, its keys and the command palette."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt, Slot
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QWidget

from app.errors import ShardboardError
from app.serving import ServingWish
from app.ui import make
from app.ui.board.state.board_model import NO_REPLICA
from app.ui.board.state.lanes import Selection
from app.ui.icons import icon
from app.ui.notices import Level

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel


class BoardCommands(QObject):
    """An action for each command. Shortcuts work while the focus is on the board: Ctrl+Left is a text's elsewhere."""

    def __init__(self, board: BoardModel, widget: QWidget) -> None:
        super().__init__(widget)
        self._board, self._widget = board, widget
        self.focused_stage: Callable[[], int | None] = lambda: None
        """The stage that has the focus in the scene, which need not be selected."""
        self.propose = self._make("Propose a plan", "wand-sparkles", self._propose, "Ctrl+P")
        self.deploy = self._make("Deploy", "rocket", board.deploy, "Ctrl+D")
        self.replicate = self._make("Add a replica", "copy", board.replicate, "Ctrl+R")
        self.cancel = self._make("Cancel the deployment", "circle-stop", board.cancel_deploy, "Ctrl+Shift+D")
        self.undeploy = self._make("Undeploy", "power-off", board.undeploy, "Ctrl+Shift+U")
        self.measure = self._make("Measure what its numbers cost", "gauge", self._measure)
        self.undo = board.undo_stack.createUndoAction(self, "Undo")
        self.redo = board.undo_stack.createRedoAction(self, "Redo")
        for action, picture, keys in ((self.undo, "undo-2", "Ctrl+Z"), (self.redo, "redo-2", "Ctrl+Shift+Z")):
            action.setIcon(icon(picture))
            self._bind(action, keys)
        self.next_shard = self._make("Select the next shard", "chevron-down", lambda: self._step(1), "Ctrl+Down")
        self.previous_shard = self._make("Select the shard before", "chevron-up", lambda: self._step(-1), "Ctrl+Up")
        self.next_node = self._make(
            "Move to the next node", "arrow-right", lambda: self._move(1), "Ctrl+Shift+Right"
        )  # fmt: skip
        self.previous_node = self._make(
            "Move to the node before", "arrow-left", lambda: self._move(-1), "Ctrl+Shift+Left"
        )  # fmt: skip
        self.boundary_later = self._make(
            "Move its boundary one layer later", "chevron-right", lambda: self._boundary(1), "Ctrl+Right"
        )  # fmt: skip
        self.boundary_earlier = self._make(
            "Move its boundary one layer earlier", "chevron-left", lambda: self._boundary(-1), "Ctrl+Left"
        )  # fmt: skip
        self.split = self._make("Split in two", "split", self._split, "Ctrl+E")
        self.merge = self._make("Merge with the next shard", "merge", self._merge, "Ctrl+M")
        self.unplace = self._make("Take off its node", "package", self._unplace, "Ctrl+Backspace")
        self.clear = self._make("Clear the board", "x", board.clear)
        self._stage_actions = (
            self.next_node, self.previous_node, self.boundary_later, self.boundary_earlier, self.split, self.merge,
            self.unplace,
        )  # fmt: skip
        board.changed.connect(self.follow)
        board.selection_changed.connect(self.follow)
        self.follow()

    def all(self) -> list[QAction]:
        """In the order of the menu."""
        return [
            self.propose, self.deploy, self.replicate, self.cancel, self.undeploy, self.measure, self.undo, self.redo,
            self.next_shard, self.previous_shard, *self._stage_actions, self.clear,
        ]  # fmt: skip

    def stage(self) -> int | None:
        """The shard that commands are about: the one with the focus, else the selected one."""
        focused = self.focused_stage()
        stage = focused if focused is not None else self._board.selection.stage
        draft = self._board.arrangement
        return stage if draft is not None and stage is not None and stage < len(draft.pieces) else None

    def attempt(self, work: Callable[[], object]) -> bool:
        """Do something with the board; a refusal is told in passing. Whether it was done."""
        try:
            work()
        except ShardboardError as error:
            self._board.workbench.notices.toast(str(error), Level.WARNING)
            return False
        return True

    @Slot()
    def follow(self) -> None:
        """Enable what can be done now; the others say why not in their status tip."""
        board = self._board
        draft = board.arrangement
        chosen = "" if draft is not None else "Choose a model first."
        busy = f"{board.deploying.model_name} is being deployed." if board.is_deploying else ""
        name = board.model_name
        deployed = name is not None and board.workbench.cluster.deployment_of(name) is not None
        _allow(self.propose, chosen or busy)
        _allow(self.deploy, board.can_deploy[1])
        _allow(self.replicate, chosen or busy or ("" if board.can_replicate else NO_REPLICA))
        _allow(self.cancel, "" if board.is_deploying else "Nothing is being deployed.")
        _allow(self.undeploy, busy or ("" if deployed else "There is no deployment to take down."))
        model = None if name is None else board.workbench.cluster.model(name)
        mute = "It has no tokenizer, and a text is needed." if model is not None and not model.has_tokenizer else ""
        _allow(self.measure, chosen or mute)
        _allow(self.clear, chosen or busy or ("No shard has a node." if draft and draft.is_untouched else ""))
        count = len(draft.pieces) if draft is not None else 0
        _allow(self.next_shard, chosen)
        _allow(self.previous_shard, chosen)
        stage = self.stage()
        none = busy or ("" if stage is not None else "Select a shard first.")
        for action in self._stage_actions:
            _allow(action, none)
        if stage is None or busy or draft is None:
            return
        if not draft.cuts_within(stage):
            _allow(self.split, "It cannot be cut any further.")
        if stage == count - 1:
            _allow(self.merge, "It is the last shard.")
        if count == 1:
            _allow(self.boundary_later, "There is one shard only.")
            _allow(self.boundary_earlier, "There is one shard only.")
        if draft.pieces[stage].node_id is None:
            _allow(self.unplace, "It has no node.")

    # --- what they do ---

    def _propose(self) -> None:
        self._board.propose()

    def _measure(self) -> None:
        """As the draft has it: in its numbers, on its nodes where every shard has one."""
        draft = self._board.arrangement
        if draft is not None:
            nodes = dict.fromkeys(piece.node_id for piece in draft.pieces)
            chosen = [node for node in nodes if node is not None]
            serving = draft.serving
            wish = ServingWish(dtype=serving.dtype, quantize=serving.quantize, kv_dtype=serving.kv_dtype)
            self._board.workbench.jobs.measure(draft.model_name, wish, None if None in nodes else chosen)

    def _step(self, direction: int) -> None:
        draft = self._board.arrangement
        if draft is None:
            return
        count = len(draft.pieces)
        stage = self.stage()
        wanted = (0 if direction > 0 else count - 1) if stage is None else (stage + direction) % count
        self._board.select(Selection(draft.pieces[wanted].node_id, wanted, draft.model_name))

    def _move(self, direction: int) -> None:
        """To the next node in the board's order that can take it."""
        stage, lanes = self.stage(), self._board.lanes()
        if stage is None or not lanes:
            return
        ids = [lane.node.id for lane in lanes]
        here = self._board.pipeline()[stage]
        at = ids.index(here) if here in ids else (-1 if direction > 0 else len(ids))
        order = ids[at + 1 :] if direction > 0 else ids[:at][::-1] if at >= 0 else []
        why = "there is no node on that side"
        for node in order:
            verdict = self._board.judge_shard(stage, node)
            if verdict.allowed:
                self._board.move_shard(stage, node)
                self._board.select(Selection(node, stage, self._board.model_name))
                return
            why = f"{self._board.workbench.cluster.nodes[node].name} {verdict.text}"
        self._board.workbench.notices.toast(f"Shard {stage + 1} stays where it is: {why}.", Level.WARNING)

    def _boundary(self, direction: int) -> None:
        """The end of the shard; of the last one its begin, which is all it has."""
        stage, boundaries = self.stage(), self._board.boundaries()
        if stage is None or not boundaries:
            return
        boundary = min(stage, len(boundaries) - 1)
        now = boundaries[boundary]
        cuts = [cut for cut in self._board.allowed_cuts(boundary) if (cut - now) * direction > 0]
        if not cuts:
            self._board.workbench.notices.toast("The model cannot be cut any further on that side.", Level.WARNING)
            return
        self._board.move_boundary(boundary, min(cuts, key=lambda cut: abs(cut - now)))

    def _split(self) -> None:
        if (stage := self.stage()) is not None:
            self._board.split_stage(stage)

    def _merge(self) -> None:
        if (stage := self.stage()) is not None:
            self._board.merge_stages(stage)

    def _unplace(self) -> None:
        if (stage := self.stage()) is not None:
            self._board.unplace(stage)

    # --- making them ---

    def _make(self, text: str, picture: str, work: Callable[[], object], keys: str = "") -> QAction:
        made = make.command(self, picture, text, lambda: self.attempt(work), tip=text)
        self._bind(made, keys)
        return made

    def _bind(self, action: QAction, keys: str) -> None:
        if keys:
            action.setShortcut(QKeySequence(keys))
        action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        self._widget.addAction(action)


def _allow(action: QAction, why_not: str) -> None:
    if action.isEnabled() == bool(why_not):
        action.setEnabled(not why_not)
    if action.statusTip() != why_not:
        action.setStatusTip(why_not)
