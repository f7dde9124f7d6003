"""The Board: library and shelf, the plan over the scene of nodes, and the inspector."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from PySide6.QtCore import QPoint, Qt, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QWidget

from app.ui import make
from app.ui.ask import ask
from app.ui.board.board_commands import BoardCommands
from app.ui.board.panes.deploy_panel import DeployPanel
from app.ui.board.panes.inspector import Inspector
from app.ui.board.panes.library_pane import LibraryPane
from app.ui.board.panes.plan_bar import PlanBar
from app.ui.board.panes.shelf import ShelfPane
from app.ui.board.scene.view import BoardView
from app.ui.board.state.board_model import BoardModel
from app.ui.board.state.lanes import Selection
from app.ui.screen import Screen
from app.ui.workbench import Workbench

WIDTHS = (264, 720, 272)


class BoardScreen(Screen):
    """Three columns: library over shelf, plan bar over the scene, inspector."""

    key = "board"
    title = "Board"
    icon = "layout-dashboard"

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(workbench, parent)
        self.board = BoardModel(workbench, self)
        self._commands = BoardCommands(self.board, self)
        self.view = BoardView(workbench, self.board)
        self._commands.focused_stage = self._focused_stage
        self.library = LibraryPane(self.board)
        self.shelf = ShelfPane(self.board)
        self.plan_bar = PlanBar(self.board, self._commands)
        self.deploy_panel = DeployPanel(self.board)
        self.inspector = Inspector(self.board, self._commands)
        self.left = make.splitter(Qt.Orientation.Vertical, self.library, self.shelf, sizes=(320, 280))
        middle = QWidget()
        make.column(self.plan_bar, self.deploy_panel, (self.view, 1), within=middle, spacing=1)
        self.left.setMinimumWidth(184)
        middle.setMinimumWidth(320)
        parts = (self.left, middle, self.inspector)
        self.splitter = make.splitter(Qt.Orientation.Horizontal, *parts, sizes=WIDTHS, growing=(1,))
        for splitter in (self.splitter, self.left):
            splitter.setHandleWidth(1)
        make.row(self.splitter, within=self, spacing=None)
        self.board.confirm_needed.connect(self._on_confirm)
        self.library.proposed.connect(self._on_proposed)
        self.shelf.menu_wanted.connect(self._on_shard_menu)
        workbench.cluster.models_changed.connect(self._choose_first)
        self._choose_first()
        self._order_tabs()

    def commands(self) -> list[QAction]:
        return self._commands.all()

    def open_with(self, what: object) -> None:
        """A model's name: show it, and propose a plan when nothing is placed yet."""
        if not isinstance(what, str):
            return
        self.board.choose_model(what)
        self.board.select(Selection(model=what))
        draft = self.board.arrangement
        if draft is not None and draft.is_untouched and self.board.capacities():
            self._commands.attempt(self.board.propose)

    def save(self) -> dict[str, Any]:
        selection = self.board.selection
        return {
            "board": self.board.save(),
            "selection": [selection.node_id, selection.stage, selection.model],
            "widths": self.splitter.sizes(),
            "heights": self.left.sizes(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        board = state.get("board")
        if isinstance(board, dict):
            self.board.restore(board)
        for splitter, key in ((self.splitter, "widths"), (self.left, "heights")):
            sizes = state.get(key)
            if isinstance(sizes, list) and len(sizes) == splitter.count() and all(isinstance(x, int) for x in sizes):
                splitter.setSizes(sizes)
        match state.get("selection"):
            case [int() | None as node, int() | None as stage, str() | None as model]:
                if node is None or node in self.workbench.cluster.nodes:
                    self.board.select(Selection(node, stage, model))
        self._choose_first()

    def went_live(self) -> None:
        self.board.figures.set_live(True)
        if self.focusWidget() is None:
            self.library.list.setFocus(Qt.FocusReason.OtherFocusReason)

    def went_quiet(self) -> None:
        self.board.figures.set_live(False)

    # --- within ---

    def _focused_stage(self) -> int | None:
        focus = self.view.board_scene.focus
        return focus.stage if focus is not None and self.view.hasFocus() else None

    @Slot()
    def _choose_first(self) -> None:
        """Somebody with one model need not choose it."""
        models = self.workbench.cluster.models
        if self.board.model_name is None and models:
            self.board.choose_model(models[0].name)

    @Slot(str, object)
    def _on_confirm(self, question: str, proceed: Any) -> None:
        ask(self, "Requests are under way", question, "Go on", proceed)

    @Slot(str)
    def _on_proposed(self, name: str) -> None:
        self._commands.attempt(lambda: self.board.propose(name))

    @Slot(int, QPoint)
    def _on_shard_menu(self, stage: int, at: QPoint) -> None:
        self.view.stage_menu(stage).popup(at)

    def _order_tabs(self) -> None:
        order = [
            self.library.list, self.library.add_button, self.shelf.list, self.shelf.count, self.plan_bar.propose,
            self.plan_bar.deploy, self.plan_bar.serving.dtype, self.plan_bar.serving.quantize,
            self.plan_bar.serving.context,
            self.plan_bar.serving.kv_tokens, self.plan_bar.serving.kv_dtype, self.view,
        ]  # fmt: skip
        for one, other in pairwise(order):
            self.setTabOrder(one, other)
