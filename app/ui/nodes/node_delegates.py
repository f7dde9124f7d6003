"""How a node's state and memory are drawn in the table."""

from __future__ import annotations

from PySide6.QtCore import QObject, QRect, QRectF, Qt
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import QApplication, QStyle, QStyledItemDelegate, QStyleOptionViewItem

from app.ui.icons import draw_icon
from app.ui.list_delegate import Index, write
from app.ui.nodes.node_row import NodeRow
from app.ui.nodes.node_words import STATES
from app.ui.nodes.nodes_model import NodeRole
from app.ui.theme import SPACING, ThemeKeeper


class _CellDelegate(QStyledItemDelegate):
    """Draws the background as every other cell has it, and leaves the rest to its subclasses."""

    def __init__(self, theme: ThemeKeeper, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        shown = QStyleOptionViewItem(option)
        self.initStyleOption(shown, index)
        text, shown.text = shown.text, ""
        style = shown.widget.style() if shown.widget is not None else QApplication.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, shown, painter, shown.widget)
        row = index.data(NodeRole.ROW)
        if not isinstance(row, NodeRow):
            return
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(shown.font)
        rect: QRect = shown.rect
        self.draw(painter, rect.adjusted(SPACING, 0, -SPACING, 0), row, str(text))
        painter.restore()

    def draw(self, painter: QPainter, rect: QRect, row: NodeRow, text: str) -> None:
        raise NotImplementedError


class StateDelegate(_CellDelegate):
    """Icon, word, and the reason where something is wrong."""

    def draw(self, painter: QPainter, rect: QRect, row: NodeRow, text: str) -> None:
        colors = self._theme.colors
        look = STATES[row.state]
        side = painter.fontMetrics().height()
        draw_icon(
            painter, look.icon, QRectF(rect.left(), rect.center().y() - side / 2 + 0.5, side, side),
            look.color_in(colors),
        )  # fmt: skip
        place = rect.adjusted(side + SPACING * 3 // 4, 0, 0, 0)
        write(painter, place, text, painter.font(), colors.text)
        if row.reason:
            place = place.adjusted(painter.fontMetrics().horizontalAdvance(text) + SPACING, 0, 0, 0)
            write(painter, place, row.reason, painter.font(), colors.muted)


class MemoryDelegate(_CellDelegate):
    """A bar to scale beside the figures."""

    def draw(self, painter: QPainter, rect: QRect, row: NodeRow, text: str) -> None:
        colors = self._theme.colors
        metrics = painter.fontMetrics()
        side = metrics.height() - 2
        room = side + SPACING // 2 if row.memory_problem else 0
        width = max(0, min(rect.width() // 3, metrics.averageCharWidth() * 9) - room)
        height = max(6, metrics.height() // 3)
        bar = QRectF(rect.left(), rect.center().y() - height / 2 + 0.5, width, height)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.border)
        painter.drawRoundedRect(bar, height / 2, height / 2)
        share = min(1.0, row.memory_used / row.memory_budget) if row.memory_budget else 0.0
        if share > 0:
            bar.setWidth(max(height, width * share))
            painter.setBrush(colors.warning if share > 0.95 else colors.accent)
            painter.drawRoundedRect(bar, height / 2, height / 2)
        place = rect.adjusted(width + SPACING, 0, 0, 0)
        if row.memory_problem:
            spot = QRectF(place.right() - side, place.center().y() - side / 2 + 0.5, side, side)
            draw_icon(painter, "triangle-alert", spot, colors.warning)
            place = place.adjusted(0, 0, -room, 0)
        write(painter, place, text, painter.font(), colors.text)
