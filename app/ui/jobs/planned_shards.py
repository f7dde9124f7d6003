"""The shards of a cut that is being planned, as a table."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QObject, QRect, Qt, Slot
from PySide6.QtGui import QPainter, QPixmap
from PySide6.QtWidgets import QApplication

from app.figures import layers_text, size_text
from app.ui.jobs.cut_plan import PlannedShard
from app.ui.jobs.shards_bar import shard_text
from app.ui.list_delegate import Index
from app.ui.theme import ThemeKeeper

TITLES = ("Shard", "Layers", "Size")


class ShardColumn(IntEnum):
    SHARD = 0
    LAYERS = 1
    SIZE = 2


class PlannedShardsModel(QAbstractTableModel):
    """A row for each shard, in order."""

    def __init__(self, theme: ThemeKeeper, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._shards: tuple[PlannedShard, ...] = ()
        theme.changed.connect(self._on_theme)

    def show_shards(self, shards: tuple[PlannedShard, ...]) -> None:
        """Replace them all: every figure changes with each change of the plan."""
        if shards != self._shards:
            self.beginResetModel()
            self._shards = shards
            self.endResetModel()

    @Slot()
    def _on_theme(self) -> None:
        if self._shards:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._shards) - 1, 0))

    def rowCount(self, parent: Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._shards)

    def columnCount(self, parent: Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(ShardColumn)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation is Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return TITLES[section] if 0 <= section < len(TITLES) else None
        if role == Qt.ItemDataRole.TextAlignmentRole and section == ShardColumn.SIZE:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid() or not 0 <= index.row() < len(self._shards):
            return None
        shard, column = self._shards[index.row()], index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return (f"shard_{shard.number}", _layers(shard), size_text(shard.nbytes))[column]
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return shard_text(shard)
        if role == Qt.ItemDataRole.DecorationRole and column == ShardColumn.SHARD:
            return self._swatch(shard.number)
        if role == Qt.ItemDataRole.TextAlignmentRole and column == ShardColumn.SIZE:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def _swatch(self, number: int) -> QPixmap:
        """A dot in the shard's colour of the bar."""
        ratio = QApplication.primaryScreen().devicePixelRatio()
        side = 12
        pixmap = QPixmap(round(side * ratio), round(side * ratio))
        pixmap.setDevicePixelRatio(ratio)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.colors.of(number))
        painter.drawRoundedRect(QRect(1, 1, side - 2, side - 2), 3, 3)
        painter.end()
        return pixmap


def _layers(shard: PlannedShard) -> str:
    count = shard.end - shard.start
    return f"{layers_text(shard.start, shard.end)}  ({count})" if count > 1 else layers_text(shard.start, shard.end)
