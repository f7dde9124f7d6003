"""The shards of the chosen model's draft as rows, to be dragged onto nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QAbstractListModel, QByteArray, QMimeData, QModelIndex, QObject, Qt, Slot

from app.figures import layers_text, size_text
from app.ui.board.lanes import MIME_SHARD
from app.ui.board.two_line_delegate import Index, Row

if TYPE_CHECKING:
    from app.ui.board.board_model import BoardModel


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


class ShelfModel(QAbstractListModel):
    """Row number is stage number. Only what is different changes, so that the selection stays."""

    def __init__(self, board: BoardModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._board = board
        self._rows: list[_Shelved] = self._read()
        board.changed.connect(self._on_changed)

    # --- what Qt asks ---

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - as Qt declares it
        return 0 if parent.isValid() else len(self._rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not self.checkIndex(index, QAbstractListModel.CheckIndexOption.IndexIsValid):
            return None
        shard = self._rows[index.row()]
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
        if fresh == self._rows:
            return
        common = min(len(fresh), len(self._rows))
        if len(fresh) < len(self._rows):
            self.beginRemoveRows(QModelIndex(), common, len(self._rows) - 1)
            del self._rows[common:]
            self.endRemoveRows()
        for row in range(common):
            if self._rows[row] != fresh[row]:
                self._rows[row] = fresh[row]
                self.dataChanged.emit(self.index(row), self.index(row))
        if len(fresh) > common:
            self.beginInsertRows(QModelIndex(), common, len(fresh) - 1)
            self._rows.extend(fresh[common:])
            self.endInsertRows()
