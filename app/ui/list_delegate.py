"""What rows of lists have in common however they are filled: their ground by state, and texts cut to their room."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QObject, QPersistentModelIndex, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter, QPen
from PySide6.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem

from app.ui.theme import RADIUS, ThemeKeeper

Index = QModelIndex | QPersistentModelIndex
LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


class ListDelegate(QStyledItemDelegate):
    """Subclasses say how high a row is and draw what stands in it."""

    margin = 4
    """Between the list's edge and the ground of a row that is chosen or under the mouse."""

    def __init__(self, theme: ThemeKeeper, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self.paint_ground(painter, option)
        self.paint_row(painter, option, index)
        painter.restore()

    def paint_row(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Draw what stands in the row. The painter is put back afterwards."""
        raise NotImplementedError

    def paint_ground(self, painter: QPainter, option: QStyleOptionViewItem) -> None:
        """Show by the row's ground whether it is chosen, under the mouse or in focus."""
        colors, state = self._theme.colors, option.state
        area = QRectF(option.rect).adjusted(self.margin, 1, -self.margin, -1)
        selected = bool(state & QStyle.StateFlag.State_Selected)
        if selected or state & QStyle.StateFlag.State_MouseOver:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colors.accent_soft if selected else colors.background)
            painter.drawRoundedRect(area, RADIUS, RADIUS)
        if state & QStyle.StateFlag.State_HasFocus:
            painter.setPen(QPen(colors.accent, 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(area.adjusted(0.5, 0.5, -0.5, -0.5), RADIUS, RADIUS)


def write(
    painter: QPainter,
    where: QRect | QRectF,
    text: str,
    font: QFont,
    color: QColor,
    *,
    cut: Qt.TextElideMode = Qt.TextElideMode.ElideRight,
    align: Qt.AlignmentFlag = LEFT,
) -> None:
    """One line of text, with an ellipsis where it has no room."""
    painter.setFont(font)
    painter.setPen(color)
    painter.drawText(QRectF(where), align, QFontMetrics(font).elidedText(text, cut, max(0, int(where.width()))))


def strong(font: QFont) -> QFont:
    """For the name of a row."""
    made = QFont(font)
    made.setWeight(QFont.Weight.DemiBold)
    return made


def small(font: QFont) -> QFont:
    """For the line under it."""
    made = QFont(font)
    made.setPointSizeF(font.pointSizeF() * 0.9)
    return made
