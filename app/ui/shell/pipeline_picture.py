"""The picture of the first page: a model's layers, split over two agents, drawn as far as it has come."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPainterPath, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.ui.icons import draw_icon
from app.ui.theme import SPACING, ThemeKeeper

LAYERS = 30
"""Of the demo's model."""
WIDEST = 760


@dataclass(frozen=True)
class PictureState:
    """What is there."""

    agents: tuple[str, ...] = ()
    """Names of the agents that are up; two are drawn."""
    has_model: bool = False
    is_split: bool = False
    boundary: int = LAYERS // 2
    """The first layer of the second half."""


class PipelinePicture(QWidget):
    """Two agents with a half of the layers each, and an arrow between them; dashed and pale where not there yet."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.state = PictureState()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self.update)
        self._say()

    def show_state(self, state: PictureState) -> None:
        if state != self.state:
            self.state = state
            self._say()
            self.update()

    def _say(self) -> None:
        state = self.state
        self.setAccessibleName(
            f"Picture: {len(state.agents)} agents up, "
            f"{'the model is split over two agents' if state.is_split else 'the model is not split yet'}"
        )

    def sizeHint(self) -> QSize:
        return QSize(WIDEST, self.fontMetrics().height() * 6 + SPACING)

    def minimumSizeHint(self) -> QSize:
        return QSize(280, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        width = min(float(WIDEST), self.width() - 2.0)
        left = (self.width() - width) / 2
        gap = max(40.0, width * 0.09)
        side = (width - gap) / 2
        height = self.height() - 2.0
        boxes = (QRectF(left, 1, side, height), QRectF(left + side + gap, 1, side, height))
        halves = ((0, self.state.boundary), (self.state.boundary, LAYERS))
        for number, (box, (start, end)) in enumerate(zip(boxes, halves, strict=True)):
            self._draw_agent(painter, number, box, start, end)
        self._draw_arrow(painter, boxes[0], boxes[1])

    def _draw_agent(self, painter: QPainter, number: int, box: QRectF, start: int, end: int) -> None:
        colors = self._theme.colors
        is_up = number < len(self.state.agents)
        painter.setPen(QPen(colors.border, 1.2, Qt.PenStyle.SolidLine if is_up else Qt.PenStyle.DashLine))
        painter.setBrush(colors.raised if is_up else Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(box, 8, 8)
        metrics = QFontMetricsF(self.font())
        inside = box.adjusted(2 * SPACING, SPACING + 4, -2 * SPACING, -SPACING - 4)
        line = QRectF(inside.left(), inside.top(), inside.width(), metrics.height())
        mark = metrics.height()
        draw_icon(
            painter, "server", QRectF(line.left(), line.top(), mark, mark), colors.text if is_up else colors.muted
        )
        painter.setPen(colors.text if is_up else colors.muted)
        name = self.state.agents[number] if is_up else f"Agent {number + 1}"
        layers = f"layers {start}–{end - 1}"
        layers_width = metrics.horizontalAdvance(layers)
        rest = line.adjusted(mark + SPACING, 0, -layers_width - SPACING, 0)
        painter.drawText(
            rest, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
            metrics.elidedText(name, Qt.TextElideMode.ElideRight, rest.width()),
        )  # fmt: skip
        if self.state.has_model:
            painter.setPen(colors.muted)
            painter.drawText(line, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, layers)
        self._draw_layers(painter, number, inside.adjusted(0, metrics.height() + SPACING + 4, 0, 0), end - start)

    def _draw_layers(self, painter: QPainter, number: int, area: QRectF, count: int) -> None:
        colors = self._theme.colors
        pitch = area.width() / max(1, count)
        bar = max(2.0, pitch * 0.66)
        color = QColor(colors.of(number)) if self.state.has_model else QColor(colors.sunken)
        for layer in range(count):
            x = area.left() + layer * pitch + (pitch - bar) / 2
            path = QPainterPath()
            path.addRoundedRect(QRectF(x, area.top(), bar, area.height()), 2, 2)
            if self.state.has_model and not self.state.is_split:
                pale = QColor(color)
                pale.setAlpha(70)
                painter.fillPath(path, pale)
            else:
                painter.fillPath(path, color)

    def _draw_arrow(self, painter: QPainter, one: QRectF, other: QRectF) -> None:
        colors = self._theme.colors
        color = colors.accent if self.state.is_split else colors.border
        y = one.center().y()
        start, end = one.right() + SPACING, other.left() - SPACING
        head = SPACING * 0.9
        style = Qt.PenStyle.SolidLine if self.state.is_split else Qt.PenStyle.DashLine
        painter.setPen(QPen(color, 2, style, Qt.PenCapStyle.RoundCap))
        painter.drawLine(QPointF(start, y), QPointF(end - head, y))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(color)
        painter.drawPolygon(
            QPolygonF([QPointF(end, y), QPointF(end - head, y - head * 0.7), QPointF(end - head, y + head * 0.7)])
        )
