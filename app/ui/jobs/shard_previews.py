"""The shards that a cut would make, as a table."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject, QRect, Qt, Slot
from PySide6.QtGui import QIcon, QPainter, QPixmap
from PySide6.QtWidgets import QApplication

from app.figures import layers_text, size_text
from app.ui.jobs.cut_preview import ShardPreview
from app.ui.jobs.shards_bar import shard_text
from app.ui.list_delegate import Index
from app.ui.tables import Column, Role, RowsModel
from app.ui.theme import ThemeKeeper

SWATCH = 12


def _layers(shard: ShardPreview) -> str:
    count = shard.end - shard.start
    return f"{layers_text(shard.start, shard.end)}  ({count})" if count > 1 else layers_text(shard.start, shard.end)


COLUMNS = (
    Column("Shard", lambda shard: f"shard_{shard.number}"),
    Column("Layers", _layers),
    Column("Size", lambda shard: size_text(shard.nbytes), is_figure=True),
)


class ShardPreviews(RowsModel):
    """A row for each ShardPreview, in order, with its colour of the bar."""

    def __init__(self, theme: ThemeKeeper, parent: QObject | None = None) -> None:
        super().__init__(COLUMNS, parent)
        self._theme = theme
        theme.changed.connect(self._on_theme)

    @Slot()
    def _on_theme(self) -> None:
        if self.rows:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self.rows) - 1, 0))

    def data(self, index: Index, role: int = Role.DisplayRole) -> Any:
        if role == Role.AccessibleTextRole and index.isValid():
            return shard_text(self.rows[index.row()])
        if role == Role.DecorationRole and index.isValid() and index.column() == 0:
            return self._swatch(self.rows[index.row()].number)
        return super().data(index, role)

    def _swatch(self, number: int) -> QIcon:
        """A dot in the shard's colour."""
        ratio = QApplication.primaryScreen().devicePixelRatio()
        pixmap = QPixmap(round(SWATCH * ratio), round(SWATCH * ratio))
        pixmap.setDevicePixelRatio(ratio)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.colors.of(number))
        painter.drawRoundedRect(QRect(1, 1, SWATCH - 2, SWATCH - 2), 3, 3)
        painter.end()
        return QIcon(pixmap)
