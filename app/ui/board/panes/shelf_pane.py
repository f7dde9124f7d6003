"""The shelf under the library: the shards of the chosen model, how many there are, and where they go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QModelIndex, QPoint, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QSpinBox,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.errors import ShardboardError
from app.ui.board.panes.shelf_model import ShelfModel
from app.ui.board.panes.two_line_delegate import Row
from app.ui.board.panes.two_line_list import TwoLineList
from app.ui.board.state.lanes import Selection
from app.ui.notices import Level
from app.ui.theme import SPACING

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel


class ShelfPane(QFrame):
    """See the module."""

    menu_wanted = Signal(int, QPoint)
    """A stage, and where on the screen its menu is to open."""

    def __init__(self, board: BoardModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._board = board
        self.model = ShelfModel(board, self)
        self.list = TwoLineList(board.workbench.theme, self.model, "board-shelf", "Shards", "layers")
        self.count = QSpinBox()
        self.count.setAccessibleName("Number of shards")
        self.count.setToolTip("Cut the model anew into so many shards")
        self.count.setKeyboardTracking(False)
        self.count.setMinimum(1)
        self.count.lineEdit().setTextMargins(4, 0, 0, 0)
        title = QLabel("Shards")
        title.setProperty("role", "heading")
        title.setBuddy(self.count)
        head = QHBoxLayout()
        head.setContentsMargins(2 * SPACING, SPACING, SPACING, 4)
        head.addWidget(title, 1)
        head.addWidget(self.count)
        empty = QLabel("Choose a model to see its shards.")
        empty.setWordWrap(True)
        empty.setProperty("role", "muted")
        empty.setAlignment(Qt.AlignmentFlag.AlignTop)
        empty.setContentsMargins(2 * SPACING, SPACING, 2 * SPACING, SPACING)
        self._pages = QStackedWidget()
        self._pages.addWidget(self.list)
        self._pages.addWidget(empty)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(head)
        layout.addWidget(self._pages, 1)
        self.count.valueChanged.connect(self._on_count)
        self.list.selectionModel().currentChanged.connect(self._on_current)
        self.list.clicked.connect(self._on_clicked)
        self.list.customContextMenuRequested.connect(self._on_menu)
        board.changed.connect(self._show)
        board.selection_changed.connect(self._on_selection)
        self._show()

    @Slot()
    def _show(self) -> None:
        draft = self._board.arrangement
        self._pages.setCurrentIndex(1 if draft is None else 0)
        self.count.setEnabled(draft is not None and not self._board.is_deploying)
        if draft is not None:
            self.count.blockSignals(True)
            self.count.setMaximum(len(draft.description.cuts) + 1)
            if self.count.value() != len(draft.pieces):
                self.count.setValue(len(draft.pieces))
            self.count.blockSignals(False)

    @Slot(int)
    def _on_count(self, count: int) -> None:
        try:
            self._board.set_shards(count)
        except ShardboardError as error:
            self._board.workbench.notices.toast(str(error), Level.WARNING)
            self._show()

    @Slot(QModelIndex, QModelIndex)
    def _on_current(self, current: QModelIndex, previous: QModelIndex) -> None:
        if current.isValid() and self.list.hasFocus():
            self._select(current.row())

    @Slot(QModelIndex)
    def _on_clicked(self, index: QModelIndex) -> None:
        self._select(index.row())

    def _select(self, stage: int) -> None:
        draft = self._board.arrangement
        if draft is not None and stage < len(draft.pieces):
            self._board.select(Selection(draft.pieces[stage].node_id, stage, draft.model_name))

    @Slot()
    def _on_selection(self) -> None:
        stage = self._board.selection.stage
        if stage is None:
            self.list.clearSelection()
        elif stage < self.model.rowCount():
            self.list.setCurrentIndex(self.model.index(stage))

    @Slot(QPoint)
    def _on_menu(self, at: QPoint) -> None:
        index = self.list.indexAt(at)
        if index.isValid():
            self.menu_wanted.emit(index.data(Row.KEY), self.list.viewport().mapToGlobal(at))
