"""How a command of the palette is drawn: icon, text, where it belongs, its shortcut, and why it cannot be run."""

from __future__ import annotations

from PySide6.QtCore import QRect, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QIcon, QPainter, QPalette
from PySide6.QtWidgets import QStyleOptionViewItem

from app.ui.list_delegate import Index, ListDelegate, write
from app.ui.shell.palette_model import PaletteEntry, Role
from app.ui.theme import SPACING

ICON = 16
Grade = QPalette.ColorRole


class PaletteDelegate(ListDelegate):
    """Paints rows of a PaletteModel."""

    margin = SPACING

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(0, option.fontMetrics.height() + 2 * SPACING + 2)

    def paint_row(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        entry: PaletteEntry = index.data(Role.ENTRY)
        colors, font, metrics = self._theme.colors, option.font, QFontMetricsF(option.font)
        inside = QRectF(option.rect).adjusted(2 * SPACING + 4, 1, -2 * SPACING - 4, -1)
        square = QRect(round(inside.left()), round(inside.center().y() - ICON / 2), ICON, ICON)
        entry.icon.paint(painter, square, mode=QIcon.Mode.Normal if entry.enabled else QIcon.Mode.Disabled)
        inside.setLeft(inside.left() + ICON + SPACING + 4)
        painter.setFont(font)
        inside.setRight(self._shortcut(painter, entry.shortcut, inside, metrics, option.palette) - SPACING)
        width = min(metrics.horizontalAdvance(entry.text), inside.width() * 0.7) + 1
        ink = colors.text if entry.enabled else colors.muted
        write(painter, QRectF(inside.left(), inside.top(), width, inside.height()), entry.text, font, ink)
        write(painter, inside.adjusted(width + SPACING + 3, 0, 0, 0), entry.note, font, colors.muted)

    def _shortcut(
        self, painter: QPainter, keys: str, inside: QRectF, metrics: QFontMetricsF, colors: QPalette
    ) -> float:
        """Draws the keys at the right as caps; returns where they begin."""
        right = inside.right()
        height = metrics.height() + 2
        for key in reversed([key for key in keys.split("+") if key]):
            width = max(height, metrics.horizontalAdvance(key) + SPACING + 2)
            cap = QRectF(right - width, inside.center().y() - height / 2, width, height)
            painter.setPen(colors.color(Grade.Mid))
            painter.setBrush(colors.color(Grade.Midlight))
            painter.drawRoundedRect(cap, 4, 4)
            painter.setPen(colors.color(Grade.PlaceholderText))
            painter.drawText(cap, Qt.AlignmentFlag.AlignCenter, key)
            right -= width + 4
        return right
