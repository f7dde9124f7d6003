"""A model as a bar, cut into its shards, each as wide as it has bytes."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Slot
from PySide6.QtGui import QFont, QHelpEvent, QPainter, QPainterPath
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.figures import layers, layers_text, size_text
from app.ui.jobs.cut_preview import ShardPreview
from app.ui.theme import SPACING, ThemeKeeper

GAP = 2
NARROWEST = 3.0


class ShardsBar(QWidget):
    """A model as a bar, divided into its shards. Empty until `show_shards`."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._shards: tuple[ShardPreview, ...] = ()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Preview of the shards")
        theme.changed.connect(self._on_theme)

    def show_shards(self, shards: tuple[ShardPreview, ...]) -> None:
        if shards != self._shards:
            self._shards = shards
            self.setAccessibleDescription("; ".join(shard_text(shard) for shard in shards))
            self.update()

    @Slot()
    def _on_theme(self) -> None:
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(400, 2 * self.fontMetrics().height() + 2 * SPACING)

    def minimumSizeHint(self) -> QSize:
        return QSize(120, self.sizeHint().height())

    def pieces(self) -> list[QRectF]:
        """Where each shard is painted."""
        if not self._shards:
            return []
        room = self.width() - GAP * (len(self._shards) - 1)
        total = sum(shard.nbytes for shard in self._shards) or 1
        widths = [max(NARROWEST, room * shard.nbytes / total) for shard in self._shards]
        scale = room / sum(widths)
        left, found = 0.0, []
        for width in widths:
            found.append(QRectF(left, 0, width * scale, self.height()))
            left += width * scale + GAP
        return found

    def paintEvent(self, event: object) -> None:
        colors = self._theme.colors
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        outline = QPainterPath()
        outline.addRoundedRect(QRectF(self.rect()), 6, 6)
        painter.setClipPath(outline)
        painter.fillPath(outline, colors.sunken)
        for shard, piece in zip(self._shards, self.pieces(), strict=True):
            painter.fillRect(piece, colors.of(shard.number))
            self._paint_words(painter, shard, piece)

    def _paint_words(self, painter: QPainter, shard: ShardPreview, piece: QRectF) -> None:
        """Two lines where they fit, one where only the number does, none in a sliver."""
        bold = QFont(self.font())
        bold.setWeight(QFont.Weight.DemiBold)
        line = self.fontMetrics().height()
        painter.setPen(self._theme.colors.on_accent)
        held, size = layers_text(shard.start, shard.end), size_text(shard.nbytes)
        box = piece.adjusted(SPACING, SPACING - 1, -SPACING, -SPACING)
        wide = max(self.fontMetrics().horizontalAdvance(held), self.fontMetrics().horizontalAdvance(size))
        flags = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        if wide + 4 <= box.width():
            painter.setFont(bold)
            painter.drawText(QRectF(box.topLeft(), box.topLeft() + QPointF(box.width(), line)), flags, held)
            painter.setFont(self.font())
            second = box.topLeft() + QPointF(0, line + 1)
            painter.drawText(QRectF(second, second + QPointF(box.width(), line)), flags, size)
        elif self.fontMetrics().horizontalAdvance(str(shard.number)) + 4 <= piece.width():
            painter.setFont(bold)
            painter.drawText(piece, Qt.AlignmentFlag.AlignCenter, str(shard.number))

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent):
            at = QPointF(event.pos())
            found = [s for s, piece in zip(self._shards, self.pieces(), strict=True) if piece.contains(at)]
            QToolTip.showText(event.globalPos(), shard_text(found[0]) if found else "", self)
            return True
        return super().event(event)


def shard_text(shard: ShardPreview) -> str:
    """Shard 0: layers 0–9, 1.2 GB"""
    return f"Shard {shard.number}: {layers(shard.start, shard.end)}, {size_text(shard.nbytes)}"
