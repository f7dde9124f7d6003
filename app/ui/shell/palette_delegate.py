"""How a command of the palette is drawn: icon, text, where it belongs, its shortcut, and why it cannot be run."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QIcon, QPainter, QPalette
from PySide6.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem

from app.ui.shell.palette_model import PaletteEntry, Role
from app.ui.theme import SPACING

ICON = 16
SOFT = 48
"""How much of the accent shows behind the chosen command, of 255: its text keeps its contrast."""
Grade = QPalette.ColorRole
LEFT = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft


class PaletteDelegate(QStyledItemDelegate):
    """Paints rows of a PaletteModel."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        return QSize(0, option.fontMetrics.height() + 2 * SPACING + 2)

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        entry: PaletteEntry = index.data(Role.ENTRY)
        colors = option.palette
        row = QRectF(option.rect).adjusted(SPACING, 1, -SPACING, -1)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(option.font)
        if option.state & QStyle.StateFlag.State_Selected:
            painter.setPen(Qt.PenStyle.NoPen)
            soft = QColor(colors.color(Grade.Accent))
            soft.setAlpha(SOFT)
            painter.setBrush(soft)
            painter.drawRoundedRect(row, 6, 6)
        inside = row.adjusted(SPACING + 4, 0, -SPACING - 4, 0)
        metrics = QFontMetricsF(option.font)
        square = QRect(round(inside.left()), round(inside.center().y() - ICON / 2), ICON, ICON)
        entry.icon.paint(painter, square, mode=QIcon.Mode.Normal if entry.enabled else QIcon.Mode.Disabled)
        inside.setLeft(inside.left() + ICON + SPACING + 4)
        right = self._shortcut(painter, entry.shortcut, inside, metrics, colors)
        inside.setRight(right - SPACING)
        text_width = min(metrics.horizontalAdvance(entry.text), inside.width() * 0.7)
        painter.setPen(colors.color(Grade.Text if entry.enabled else Grade.PlaceholderText))
        text = metrics.elidedText(entry.text, Qt.TextElideMode.ElideRight, text_width + 1)
        painter.drawText(QRectF(inside.left(), inside.top(), text_width + 1, inside.height()), LEFT, text)
        painter.setPen(colors.color(Grade.PlaceholderText))
        rest = inside.adjusted(text_width + SPACING + 4, 0, 0, 0)
        painter.drawText(rest, LEFT, metrics.elidedText(entry.note, Qt.TextElideMode.ElideRight, rest.width()))
        painter.restore()

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
