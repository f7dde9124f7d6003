"""How a conversation looks in the list: its title, its model and its time, and a mark while it is being answered."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QObject, QPersistentModelIndex, QPointF, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QFont, QFontMetrics, QPainter
from PySide6.QtWidgets import QLineEdit, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from app.ui.chat.conversation_list import ListRole
from app.ui.theme import RADIUS, ThemeKeeper

Index = QModelIndex | QPersistentModelIndex
MARGIN = 8
DOT = 3.5


class ConversationDelegate(QStyledItemDelegate):
    """Two lines on a rounded background."""

    def __init__(self, theme: ThemeKeeper, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(120, option.fontMetrics.height() * 2 + 2 * MARGIN + 6)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        colors = self._theme.colors
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        rect = option.rect.adjusted(4, 1, -4, -1)
        selected = bool(option.state & QStyle.StateFlag.State_Selected)
        if selected or option.state & QStyle.StateFlag.State_MouseOver:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colors.accent_soft if selected else colors.sunken)
            painter.drawRoundedRect(rect, RADIUS, RADIUS)
        if option.state & QStyle.StateFlag.State_HasFocus and selected:
            painter.setPen(colors.accent)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(rect).adjusted(0.5, 0.5, -0.5, -0.5), RADIUS, RADIUS)
        inside = rect.adjusted(MARGIN, MARGIN - 2, -MARGIN, -MARGIN + 2)
        self._title(painter, option, inside, index, selected)
        self._under(painter, option, inside, index)
        painter.restore()

    def _title(
        self, painter: QPainter, option: QStyleOptionViewItem, inside: QRect, index: Index, selected: bool
    ) -> None:
        font = QFont(option.font)
        if selected:
            font.setWeight(QFont.Weight.DemiBold)
        painter.setFont(font)
        painter.setPen(self._theme.colors.text)
        line = QRect(inside.left(), inside.top(), inside.width(), option.fontMetrics.height())
        text = QFontMetrics(font).elidedText(str(index.data()), Qt.TextElideMode.ElideRight, line.width())
        painter.drawText(line, Qt.AlignmentFlag.AlignVCenter, text)

    def _under(self, painter: QPainter, option: QStyleOptionViewItem, inside: QRect, index: Index) -> None:
        colors = self._theme.colors
        font = QFont(option.font)
        font.setPointSizeF(font.pointSizeF() * 0.88)
        metrics = QFontMetrics(font)
        painter.setFont(font)
        line = QRect(inside.left(), inside.bottom() - metrics.height() + 1, inside.width(), metrics.height())
        if index.data(ListRole.STREAMING):
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colors.accent)
            painter.drawEllipse(QPointF(line.left() + DOT, line.center().y() + 1), DOT, DOT)
            painter.setPen(colors.accent)
            painter.drawText(line.adjusted(int(4 * DOT), 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, "answering")
            return
        painter.setPen(colors.muted)
        when = str(index.data(ListRole.WHEN))
        room = line.width() - metrics.horizontalAdvance(when) - MARGIN
        painter.drawText(line, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight, when)
        model = metrics.elidedText(str(index.data(ListRole.MODEL)), Qt.TextElideMode.ElideRight, max(0, room))
        painter.drawText(line, Qt.AlignmentFlag.AlignVCenter, model)

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:
        editor = QLineEdit(parent)
        editor.setAccessibleName("Title of the conversation")
        return editor

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: Index) -> None:
        height = editor.sizeHint().height()
        rect = option.rect.adjusted(6, 0, -6, 0)
        editor.setGeometry(rect.left(), rect.center().y() - height // 2, rect.width(), height)
