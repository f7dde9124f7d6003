"""How a node's state and memory are drawn in the table."""

from __future__ import annotations

from PySide6.QtCore import QRect, QRectF, Qt
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import QStyleOptionViewItem

from app.ui.icons import draw_icon
from app.ui.list_delegate import Index, write
from app.ui.looks import NODES
from app.ui.nodes.node_row import NodeRow
from app.ui.nodes.nodes_model import NodeRole
from app.ui.tables import CellDelegate
from app.ui.theme import SPACING


class _NodeDelegate(CellDelegate):
    """A cell that shows something of the whole NodeRow."""

    def paint_row(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        row = index.data(NodeRole.ROW)
        if isinstance(row, NodeRow):
            painter.setFont(index.data(Qt.ItemDataRole.FontRole) or option.font)
            self.draw(painter, option.rect.adjusted(SPACING, 0, -SPACING, 0), row, str(index.data()))

    def draw(self, painter: QPainter, rect: QRect, row: NodeRow, text: str) -> None:
        raise NotImplementedError


class StateDelegate(_NodeDelegate):
    """Icon, word, and the reason where something is wrong."""

    def draw(self, painter: QPainter, rect: QRect, row: NodeRow, text: str) -> None:
        colors = self._theme.colors
        look = NODES[row.state]
        side = painter.fontMetrics().height()
        spot = QRectF(rect.left(), rect.center().y() - side / 2 + 0.5, side, side)
        draw_icon(painter, look.icon, spot, look.of(colors))
        place = rect.adjusted(side + SPACING * 3 // 4, 0, 0, 0)
        write(painter, place, text, painter.font(), colors.text)
        if row.reason:
            place = place.adjusted(painter.fontMetrics().horizontalAdvance(text) + SPACING, 0, 0, 0)
            write(painter, place, row.reason, painter.font(), colors.muted)


class MemoryDelegate(_NodeDelegate):
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
