"""The rows of library and shelf: a picture or a numbered colour, a name, a line of figures, and a tag at the right."""

from __future__ import annotations

from enum import IntEnum

from PySide6.QtCore import QAbstractItemModel, QModelIndex, QObject, QPersistentModelIndex, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter, QPen
from PySide6.QtWidgets import QListView, QStyle, QStyledItemDelegate, QStyleOptionViewItem

from app.ui.icons import draw_icon
from app.ui.theme import SPACING, ThemeKeeper

Index = QModelIndex | QPersistentModelIndex


class Row(IntEnum):
    """Roles of the models that are shown by this delegate; the name is the display role."""

    SUBTITLE = Qt.ItemDataRole.UserRole + 1
    TAG = Qt.ItemDataRole.UserRole + 2
    """A word at the right; empty for none."""
    IS_GOOD = Qt.ItemDataRole.UserRole + 3
    """Whether the tag tells of something that is as it should be."""
    NUMBER = Qt.ItemDataRole.UserRole + 4
    """Of a stage, from 0: its colour. None for a picture instead."""
    KEY = Qt.ItemDataRole.UserRole + 5
    """What the row stands for: a model's name, a stage's number."""


class TwoLineDelegate(QStyledItemDelegate):
    """Paints a row by the roles of `Row`."""

    def __init__(self, theme: ThemeKeeper, picture: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme, self._picture = theme, picture

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        first, second = QFontMetrics(_strong(option.font)), QFontMetrics(_small(option.font))
        return QSize(160, first.height() + second.height() + 2 * SPACING + 2)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        colors = self._theme.colors
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        state = option.state
        area = QRectF(option.rect).adjusted(4, 1, -4, -1)
        if state & QStyle.StateFlag.State_Selected:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colors.accent_soft)
            painter.drawRoundedRect(area, 6, 6)
        elif state & QStyle.StateFlag.State_MouseOver:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colors.background)
            painter.drawRoundedRect(area, 6, 6)
        if state & QStyle.StateFlag.State_HasFocus:
            painter.setPen(QPen(colors.accent, 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(area.adjusted(0.5, 0.5, -0.5, -0.5), 6, 6)
        rect = option.rect.adjusted(12, SPACING, -12, -SPACING)
        strong, small = _strong(option.font), _small(option.font)
        side = QFontMetrics(strong).height() + 4
        self._paint_mark(painter, QRectF(rect.left(), rect.center().y() - side / 2 + 1, side, side), index, strong)
        rect.setLeft(rect.left() + side + 10)
        tag = str(index.data(Row.TAG) or "")
        right = self._paint_tag(painter, rect, tag, bool(index.data(Row.IS_GOOD)), small) if tag else rect.right()
        height = QFontMetrics(strong).height()
        self._line(painter, QRect(rect.left(), rect.top(), right - rect.left(), height), index, strong, colors.text)
        below = QRect(rect.left(), rect.top() + height + 2, rect.width(), QFontMetrics(small).height())
        painter.setFont(small)
        painter.setPen(colors.muted)
        text = str(index.data(Row.SUBTITLE) or "")
        painter.drawText(
            below, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
            QFontMetrics(small).elidedText(text, Qt.TextElideMode.ElideRight, below.width()),
        )  # fmt: skip
        painter.restore()

    def _paint_mark(self, painter: QPainter, where: QRectF, index: Index, font: QFont) -> None:
        colors, number = self._theme.colors, index.data(Row.NUMBER)
        if number is None:
            draw_icon(painter, self._picture, where.adjusted(1, 1, -1, -1), colors.muted)
            return
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.of(int(number)))
        painter.drawRoundedRect(where, 4, 4)
        painter.setPen(colors.on_accent)
        painter.setFont(font)
        painter.drawText(where, Qt.AlignmentFlag.AlignCenter, str(int(number) + 1))

    def _paint_tag(self, painter: QPainter, rect: QRect, text: str, is_good: bool, font: QFont) -> int:
        """Where it begins, so that the name ends before it."""
        colors, metrics = self._theme.colors, QFontMetrics(font)
        width = min(rect.width() // 2, metrics.horizontalAdvance(text) + 12)
        height = metrics.height() + 2
        where = QRectF(rect.right() - width, rect.top(), width, height)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.ok_soft if is_good else colors.sunken)
        painter.drawRoundedRect(where, height / 2, height / 2)
        painter.setPen(colors.ok if is_good else colors.muted)
        painter.setFont(font)
        shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, int(width) - 10)
        painter.drawText(where, Qt.AlignmentFlag.AlignCenter, shown)
        return int(where.left()) - SPACING

    def _line(self, painter: QPainter, where: QRect, index: Index, font: QFont, color: QColor) -> None:
        painter.setFont(font)
        painter.setPen(color)
        text = str(index.data(Qt.ItemDataRole.DisplayRole) or "")
        shown = QFontMetrics(font).elidedText(text, Qt.TextElideMode.ElideMiddle, where.width())
        painter.drawText(where, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, shown)


def _strong(font: QFont) -> QFont:
    made = QFont(font)
    made.setWeight(QFont.Weight.DemiBold)
    return made


def _small(font: QFont) -> QFont:
    made = QFont(font)
    made.setPointSizeF(font.pointSizeF() * 0.9)
    return made


class TwoLineList(QListView):
    """Rows of two lines that can be dragged away, with a menu for each."""

    def __init__(self, theme: ThemeKeeper, model: QAbstractItemModel, name: str, title: str, picture: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(title)
        self.setModel(model)
        self.setItemDelegate(TwoLineDelegate(theme, picture, self))
        self.setDragEnabled(True)
        self.setDragDropMode(QListView.DragDropMode.DragOnly)
        self.setMouseTracking(True)
        self.setVerticalScrollMode(QListView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)

    def take_files(self) -> None:
        """Let files be dropped anywhere on it."""
        self.setAcceptDrops(True)
        self.setDragDropMode(QListView.DragDropMode.DragDrop)
        self.setDefaultDropAction(Qt.DropAction.CopyAction)
        self.setDropIndicatorShown(False)
        self.setDragDropOverwriteMode(True)
