"""At the right of the board: all that is known of what is selected, and what can be done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QFrame, QScrollArea, QWidget

from app.ui import make
from app.ui.board.panes.inspector_pages import InspectModel, InspectNode, InspectStage
from app.ui.board.panes.load_card import LoadCard
from app.ui.theme import SPACING

if TYPE_CHECKING:
    from app.ui.board.board_commands import BoardCommands
    from app.ui.board.state.board_model import BoardModel


class Inspector(QScrollArea):
    """A page for a stage, a node and a model; the selection says which."""

    def __init__(self, board: BoardModel, commands: BoardCommands, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._board = board
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAccessibleName("Inspector")
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.stage = InspectStage(board, commands)
        self.node = InspectNode(board)
        self.model = InspectModel(board, commands)
        self.nothing = make.label("Select a node, a shard or a model to see what is known of it.", "muted", wraps=True)
        self.nothing.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.load = LoadCard(board)
        self.pages = make.stack(self.stage, self.node, self.model, self.nothing)
        holder = make.dressed(QFrame(), "panel")
        make.column(
            self.load, self.pages, within=holder, margins=(2 * SPACING, SPACING + 4, 2 * SPACING, 2 * SPACING),
            spacing=2 * SPACING,
        )  # fmt: skip
        self.setWidget(holder)
        self.setMinimumWidth(max(220, holder.minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()))
        board.changed.connect(self.show_selection)
        board.selection_changed.connect(self.show_selection)
        board.workbench.cluster.measurements_changed.connect(self.show_selection)
        self.show_selection()

    @Slot()
    def show_selection(self) -> None:
        selection, board = self._board.selection, self._board
        draft = board.arrangement
        page: QWidget = self.nothing
        if selection.stage is not None and draft is not None and selection.stage < len(draft.pieces):
            page = self.stage
            self.stage.show_stage(selection.stage)
        elif selection.node_id is not None and selection.node_id in board.workbench.cluster.nodes:
            page = self.node
            self.node.show_node(selection.node_id)
        elif (name := selection.model or board.model_name) and board.workbench.cluster.model(name) is not None:
            page = self.model
            self.model.show_model(name)
        if self.pages.currentWidget() is not page:
            self.pages.setCurrentWidget(page)
            self.verticalScrollBar().setValue(0)
