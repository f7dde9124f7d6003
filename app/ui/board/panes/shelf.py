"""The shelf under the library: the shards of the chosen model, how many there are, where they go; to be dragged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QByteArray, QMimeData, QModelIndex, QObject, QPoint, QSignalBlocker, Qt, Signal, Slot
from PySide6.QtWidgets import QFrame, QSpinBox, QWidget

from app.errors import ShardboardError
from app.figures import layers_text, size_text
from app.ui import make
from app.ui.board.panes.two_lines import Row, TwoLineList
from app.ui.board.state.lanes import MIME_SHARD, Selection
from app.ui.list_delegate import Index
from app.ui.list_model import ListModel
from app.ui.notices import Level
from app.ui.theme import SPACING

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel


@dataclass(frozen=True)
class _Shelved:
    """A shard as its row shows it."""

    start: int
    end: int
    weight_bytes: int
    kv_bytes: int
    node: str | None

    @property
    def layers(self) -> str:
        return f"Layer{'s' if self.end - self.start > 1 else ''} {layers_text(self.start, self.end)}"


class ShelfModel(ListModel[_Shelved]):
    """Row number is stage number. Only what is different changes, so that the selection stays."""

    def __init__(self, board: BoardModel, parent: QObject | None = None) -> None:
        super().__init__((), parent)
        self._board = board
        self.rows = self._read()
        board.changed.connect(self._on_changed)

    # --- what Qt asks ---

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if (shard := self.row(index)) is None:
            return None
        where = shard.node or "not placed"
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return shard.layers
            case Row.SUBTITLE:
                return f"{size_text(shard.weight_bytes + shard.kv_bytes)} · {where}"
            case Row.NUMBER | Row.KEY:
                return index.row()
            case Qt.ItemDataRole.ToolTipRole:
                return (
                    f"Shard {index.row() + 1}: {size_text(shard.weight_bytes)} of weights, {size_text(shard.kv_bytes)} "
                    f"for keys and values, {where}\nDrag it onto a node."
                )
            case Qt.ItemDataRole.AccessibleTextRole:
                size = size_text(shard.weight_bytes + shard.kv_bytes)
                return f"Shard {index.row() + 1}, {shard.layers.lower()}, {size}, {where}"
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        base = super().flags(index)
        return base | Qt.ItemFlag.ItemIsDragEnabled if index.isValid() else base

    def mimeTypes(self) -> list[str]:
        return [MIME_SHARD]

    def mimeData(self, indexes: Sequence[QModelIndex]) -> QMimeData:
        data = QMimeData()
        if indexes:
            data.setData(MIME_SHARD, QByteArray(str(indexes[0].row()).encode()))
        return data

    def supportedDragActions(self) -> Qt.DropAction:
        return Qt.DropAction.MoveAction | Qt.DropAction.CopyAction

    # --- following ---

    def _read(self) -> list[_Shelved]:
        draft = self._board.arrangement
        if draft is None:
            return []
        nodes = self._board.workbench.cluster.nodes
        return [
            _Shelved(
                piece.start, piece.end, draft.weights(stage), draft.kv(stage),
                nodes[piece.node_id].name if piece.node_id in nodes else None,
            )
            for stage, piece in enumerate(draft.pieces)
        ]  # fmt: skip

    @Slot()
    def _on_changed(self) -> None:
        fresh = self._read()
        common = min(len(fresh), len(self.rows))
        if len(fresh) < len(self.rows):
            self.remove(common, len(self.rows) - common)
        for row in range(common):
            if self.rows[row] != fresh[row]:
                self.replace(row, fresh[row])
        if len(fresh) > common:
            self.insert(common, *fresh[common:])


class ShelfPane(QFrame):
    """How many shards, and a list of them; it follows the draft."""

    menu_wanted = Signal(int, QPoint)
    """A stage, and where on the screen its menu is to open."""

    def __init__(self, board: BoardModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._board = board
        self.model = ShelfModel(board, self)
        self.list = TwoLineList(board.workbench.theme, self.model, "board-shelf", "Shards", "layers")
        self.count = make.dressed(
            make.number_field(QSpinBox()), name="Number of shards", tip="Cut the model anew into so many shards"
        )
        self.count.setKeyboardTracking(False)
        self.count.setMinimum(1)
        self.count.lineEdit().setTextMargins(4, 0, 0, 0)
        title = make.label("Shards", "heading")
        title.setBuddy(self.count)
        head = make.row((title, 1), self.count, margins=(2 * SPACING, SPACING, SPACING, 4), spacing=None)
        empty = make.label("Choose a model to see its shards.", "muted", wraps=True)
        empty.setAlignment(Qt.AlignmentFlag.AlignTop)
        empty.setContentsMargins(2 * SPACING, SPACING, 2 * SPACING, SPACING)
        self._pages = make.stack(self.list, empty)
        make.column(head, (self._pages, 1), within=self, spacing=0)
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
            with QSignalBlocker(self.count):
                self.count.setMaximum(len(draft.description.cuts) + 1)
                if self.count.value() != len(draft.pieces):
                    self.count.setValue(len(draft.pieces))

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
