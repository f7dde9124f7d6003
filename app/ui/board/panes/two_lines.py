"""The rows of library and shelf: a picture or a numbered colour, a name, a line of figures, and a tag at the right."""

from __future__ import annotations

from enum import IntEnum

from PySide6.QtCore import QAbstractItemModel, QObject, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QFont, QFontMetrics, QPainter
from PySide6.QtWidgets import QListView, QStyleOptionViewItem

from app.ui.icons import draw_icon
from app.ui.list_delegate import Index, ListDelegate, small, strong, write
from app.ui.theme import SPACING, ThemeKeeper


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


class TwoLineDelegate(ListDelegate):
    """Paints a row by the roles of `Row`."""

    def __init__(self, theme: ThemeKeeper, picture: str, parent: QObject | None = None) -> None:
        super().__init__(theme, parent)
        self._picture = picture

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        first, second = QFontMetrics(strong(option.font)), QFontMetrics(small(option.font))
        return QSize(160, first.height() + second.height() + 2 * SPACING + 2)

    def paint_row(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        colors = self._theme.colors
        rect = option.rect.adjusted(12, SPACING, -12, -SPACING)
        name, under = strong(option.font), small(option.font)
        height = QFontMetrics(name).height()
        side = height + 4
        self._paint_mark(painter, QRectF(rect.left(), rect.center().y() - side / 2 + 1, side, side), index, name)
        rect.setLeft(rect.left() + side + 10)
        tag = str(index.data(Row.TAG) or "")
        right = self._paint_tag(painter, rect, tag, bool(index.data(Row.IS_GOOD)), under) if tag else rect.right()
        line = QRect(rect.left(), rect.top(), right - rect.left(), height)
        write(painter, line, str(index.data() or ""), name, colors.text, cut=Qt.TextElideMode.ElideMiddle)
        below = QRect(rect.left(), rect.top() + height + 2, rect.width(), QFontMetrics(under).height())
        write(painter, below, str(index.data(Row.SUBTITLE) or ""), under, colors.muted)

    def _paint_mark(self, painter: QPainter, where: QRectF, index: Index, font: QFont) -> None:
        colors, number = self._theme.colors, index.data(Row.NUMBER)
        if number is None:
            draw_icon(painter, self._picture, where.adjusted(1, 1, -1, -1), colors.muted)
            return
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.of(int(number)))
        painter.drawRoundedRect(where, 4, 4)
        write(painter, where, str(int(number) + 1), font, colors.on_accent, align=Qt.AlignmentFlag.AlignCenter)

    def _paint_tag(self, painter: QPainter, rect: QRect, text: str, is_good: bool, font: QFont) -> int:
        """Where it begins, so that the name ends before it."""
        colors, metrics = self._theme.colors, QFontMetrics(font)
        width = min(rect.width() // 2, metrics.horizontalAdvance(text) + 12)
        height = metrics.height() + 2
        where = QRectF(rect.right() - width, rect.top(), width, height)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.ok_soft if is_good else colors.sunken)
        painter.drawRoundedRect(where, height / 2, height / 2)
        ink = colors.ok if is_good else colors.muted
        write(painter, where.adjusted(5, 0, -5, 0), text, font, ink, align=Qt.AlignmentFlag.AlignCenter)
        return int(where.left()) - SPACING


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
