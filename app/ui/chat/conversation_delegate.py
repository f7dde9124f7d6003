"""How a conversation looks in the list: its title, its model and its time, and a mark while it is being answered."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRect, QSize, Qt
from PySide6.QtGui import QFontMetrics, QPainter
from PySide6.QtWidgets import QLineEdit, QStyle, QStyleOptionViewItem, QWidget

from app.ui.chat.conversation_list import ListRole
from app.ui.list_delegate import RIGHT, Index, ListDelegate, small, strong, write

MARGIN = 8
DOT = 3.5


class ConversationDelegate(ListDelegate):
    """Two lines: the title, and under it model and time, or that it is being answered."""

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(120, option.fontMetrics.height() * 2 + 2 * MARGIN + 6)

    def paint_row(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        colors = self._theme.colors
        inside = option.rect.adjusted(4 + MARGIN, MARGIN - 1, -4 - MARGIN, 1 - MARGIN)
        selected = bool(option.state & QStyle.StateFlag.State_Selected)
        title = QRect(inside.left(), inside.top(), inside.width(), option.fontMetrics.height())
        write(painter, title, str(index.data()), strong(option.font) if selected else option.font, colors.text)
        font = small(option.font)
        metrics = QFontMetrics(font)
        line = QRect(inside.left(), inside.bottom() - metrics.height() + 1, inside.width(), metrics.height())
        if index.data(ListRole.STREAMING):
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colors.accent)
            painter.drawEllipse(QPointF(line.left() + DOT, line.center().y() + 1), DOT, DOT)
            write(painter, line.adjusted(int(4 * DOT), 0, 0, 0), "answering", font, colors.accent)
            return
        when = str(index.data(ListRole.WHEN))
        write(painter, line, when, font, colors.muted, align=RIGHT)
        room = line.adjusted(0, 0, -metrics.horizontalAdvance(when) - MARGIN, 0)
        write(painter, room, str(index.data(ListRole.MODEL)), font, colors.muted)

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:
        editor = QLineEdit(parent)
        editor.setAccessibleName("Title of the conversation")
        return editor

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: Index) -> None:
        height = editor.sizeHint().height()
        rect = option.rect.adjusted(6, 0, -6, 0)
        editor.setGeometry(rect.left(), rect.center().y() - height // 2, rect.width(), height)
