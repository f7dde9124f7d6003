"""The window's tables: their columns, rows that are held in memory, how cells are painted, how a table behaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QAbstractItemModel, QAbstractTableModel, QEvent, QModelIndex, QObject, QRect, QSize, Qt
from PySide6.QtGui import QColor, QFont, QHelpEvent, QIcon, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyle,
    QStyleOptionViewItem,
    QTableView,
    QToolTip,
    QWidget,
)

from app.ui import make
from app.ui.list_delegate import LEFT, RIGHT, Index, ListDelegate, write
from app.ui.theme import SPACING, ThemeKeeper

Role = Qt.ItemDataRole
ICON = 16


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and what of a row stands in it."""

    title: str
    text: Callable[[Any], str]
    widest: str = ""
    """It is made as wide as this text; without one it takes the room that is left over."""
    is_figure: bool = False
    """Set flush right."""
    hint: Callable[[Any], str | None] | None = None
    """What a cell's tooltip says; without one it says the whole of a text that is cut."""
    tip: str | None = None
    """What the title's tooltip says."""

    @property
    def alignment(self) -> Qt.AlignmentFlag:
        return RIGHT if self.is_figure else LEFT


class ColumnsModel(QAbstractTableModel):
    """A table of columns. Subclasses say how many rows there are, and what stands in them."""

    columns: tuple[Column, ...] = ()

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else len(self.columns)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Role.DisplayRole) -> Any:
        if orientation is not Qt.Orientation.Horizontal or not 0 <= section < len(self.columns):
            return None
        column = self.columns[section]
        match role:
            case Role.DisplayRole:
                return column.title
            case Role.ToolTipRole:
                return column.tip
            case Role.TextAlignmentRole:
                return column.alignment
        return None


class RowsModel(ColumnsModel):
    """Rows that are held in memory and replaced together; read-only."""

    def __init__(self, columns: Sequence[Column], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.columns = tuple(columns)
        self.rows: list[Any] = []

    def show_rows(self, rows: Sequence[Any]) -> None:
        if list(rows) != self.rows:
            self.beginResetModel()
            self.rows = list(rows)
            self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else len(self.rows)

    def data(self, index: Index, role: int = Role.DisplayRole) -> Any:
        if not index.isValid() or index.row() >= len(self.rows):
            return None
        column, row = self.columns[index.column()], self.rows[index.row()]
        match role:
            case Role.DisplayRole:
                return column.text(row)
            case Role.ToolTipRole:
                return column.hint(row) if column.hint is not None else None
            case Role.TextAlignmentRole:
                return column.alignment
        return None


class CellDelegate(ListDelegate):
    """Paints the cells of tables whose rows are selected whole: an icon, a line of text. Nothing else, so quickly.

    The style's own way asks the model for nine things a cell and goes through the style sheet each time: a page of rows
    took 40 ms, half of what a frame may take in all.
    """

    def __init__(self, theme: ThemeKeeper, view: QAbstractItemView) -> None:
        super().__init__(theme, view)
        self._view = view

    def paint_ground(self, painter: QPainter, option: QStyleOptionViewItem) -> None:
        """The cells of a row lie side by side: their ground has no edges."""
        colors, rect = self._theme.colors, option.rect
        if option.state & QStyle.StateFlag.State_Selected:
            painter.fillRect(rect, colors.accent_soft)
        if option.state & QStyle.StateFlag.State_HasFocus and self._view.hasFocus():
            painter.fillRect(QRect(rect.left(), rect.bottom(), rect.width(), 1), colors.accent)

    def paint_row(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        rect, colors = option.rect, self._theme.colors
        left = rect.left() + SPACING
        icon = index.data(Role.DecorationRole)
        if isinstance(icon, QIcon):
            box = QRect(left, rect.top() + (rect.height() - ICON) // 2, ICON, ICON)
            icon.paint(painter, box)
            left = box.right() + int(0.75 * SPACING)
        color = index.data(Role.ForegroundRole)
        # Muted words on the selection's colour would be hard to read; colours with a meaning stay.
        is_selected = bool(option.state & QStyle.StateFlag.State_Selected)
        if not isinstance(color, QColor) or (is_selected and color == colors.muted):
            color = colors.text
        font = index.data(Role.FontRole)
        room = QRect(left, rect.top(), rect.right() - left - SPACING + 1, rect.height())
        align = Qt.AlignmentFlag(index.data(Role.TextAlignmentRole) or LEFT)
        text = str(index.data() or "").replace("\n", " ")
        write(painter, room, text, font if isinstance(font, QFont) else self._view.font(), color, align=align)

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        metrics = self._view.fontMetrics()
        width = metrics.horizontalAdvance(str(index.data() or ""))
        return QSize(width + ICON + 3 * SPACING, metrics.height() + 2 * SPACING)

    def helpEvent(self, event: QHelpEvent, view: QAbstractItemView, option: QStyleOptionViewItem, index: Index) -> bool:
        """A text that is cut is told in full, also where the model has no hint of its own."""
        if event.type() != QEvent.Type.ToolTip or not index.isValid():
            return super().helpEvent(event, view, option, index)
        hint = index.data(Role.ToolTipRole)
        if not hint:
            text = str(index.data() or "")
            width = view.visualRect(index).width() - 2 * SPACING
            hint = text if view.fontMetrics().horizontalAdvance(text) > width else ""
        QToolTip.showText(event.globalPos(), str(hint), view)
        return True


class Table(QTableView):
    """Rows are selected whole, scroll by pixels and are as high as a line with some air."""

    def __init__(
        self,
        model: QAbstractItemModel,
        theme: ThemeKeeper,
        name: str,
        *,
        key: str = "",
        air: int = SPACING,
        parent: QWidget | None = None,
    ) -> None:
        """`name` is what a screen reader calls it, `air` how much higher than a line a row is, in pixels."""
        super().__init__(parent)
        make.dressed(self, key=key, name=name)
        self.setModel(model)
        self.setItemDelegate(CellDelegate(theme, self))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setCornerButtonEnabled(False)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + air)
        self.horizontalHeader().setHighlightSections(False)

    def size_columns(self, columns: Sequence[Column], gap: int = 3 * SPACING) -> None:
        """Make each as wide as its widest text and a gap, in pixels."""
        header = self.horizontalHeader()
        for number, column in enumerate(columns):
            if column.widest:
                header.setSectionResizeMode(number, QHeaderView.ResizeMode.Interactive)
                header.resizeSection(number, self.fontMetrics().horizontalAdvance(column.widest) + gap)
            else:
                header.setSectionResizeMode(number, QHeaderView.ResizeMode.Stretch)
