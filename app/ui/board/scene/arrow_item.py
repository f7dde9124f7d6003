"""An arrow of the pipeline: the way of the activations from one stage to the next, and the pulse that runs along it."""

from __future__ import annotations

import math
from itertools import pairwise

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QBrush, QColor, QPainter, QPainterPath, QPen, QPolygonF
from PySide6.QtWidgets import QGraphicsItem, QStyleOptionGraphicsItem, QWidget

from app.ui.board.scene.look import Look, faded, mixed
from app.ui.board.scene.routes import Route

CORNER = 7.0
HEAD = 7.0
GLOW = 9.0
"""Radius of what a pulse touches."""


class ArrowItem(QGraphicsItem):
    """See the module. Cheap to animate: a pulse repaints only where it was and where it is."""

    def __init__(self, look: Look, route: Route) -> None:
        super().__init__()
        self.setZValue(5)
        self.setAcceptedMouseButtons(Qt.MouseButton.NoButton)
        self.route = route
        self.is_lit = False
        self.phase: float | None = None
        """How far the pulse is, 0 to 1; None for no pulse."""
        self._look = look
        self._path = _rounded(route.points)
        self._bounds = self._path.boundingRect().adjusted(-GLOW, -GLOW, GLOW, GLOW)
        self._lengths = [math.dist(a.toTuple(), b.toTuple()) for a, b in pairwise(route.points)]
        self._total = sum(self._lengths) or 1.0

    def set_lit(self, lit: bool) -> None:
        if lit != self.is_lit:
            self.is_lit = lit
            if not lit:
                self.phase = None
            self.update()

    def set_phase(self, phase: float) -> None:
        """Let the pulse get on."""
        before, self.phase = self.phase, phase
        for each in (before, phase):
            if each is not None:
                at = self.point_at(each)
                self.update(QRectF(at.x() - GLOW, at.y() - GLOW, 2 * GLOW, 2 * GLOW))

    def point_at(self, phase: float) -> QPointF:
        """A place on the way; 0 is its begin, 1 its end."""
        left = phase * self._total
        for (a, b), length in zip(pairwise(self.route.points), self._lengths, strict=True):
            if left <= length:
                return a + (b - a) * (left / length if length else 0.0)
            left -= length
        return self.route.points[-1]

    def boundingRect(self) -> QRectF:
        return self._bounds

    def shape(self) -> QPainterPath:
        return QPainterPath()  # a mouse goes through it

    def _color(self) -> QColor:
        colors = self._look.colors
        own = colors.of(self.route.stage)
        if self.is_lit:
            return faded(own, 0.55) if self.route.is_return else own
        if self.route.is_return:
            return mixed(colors.muted, colors.background, 0.45)
        return mixed(colors.muted, colors.background, 0.75)

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None) -> None:
        color = self._color()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        pen = QPen(color, 2.0 if self.is_lit else 1.6)
        pen.setCapStyle(Qt.PenCapStyle.RoundCap)
        if self.route.is_return:
            pen.setDashPattern([2.5, 3.0])
        painter.setPen(pen)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawPath(self._path)
        tip = self.route.points[-1]
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QBrush(color))
        painter.drawPolygon(
            QPolygonF(
                [tip, QPointF(tip.x() - HEAD * 0.62, tip.y() + HEAD), QPointF(tip.x() + HEAD * 0.62, tip.y() + HEAD)]
            )
        )
        if self.phase is not None:
            at = self.point_at(self.phase)
            own = self._look.colors.of(self.route.stage)
            painter.setBrush(faded(own, 0.25))
            painter.drawEllipse(at, GLOW - 1.5, GLOW - 1.5)
            painter.setBrush(own)
            painter.drawEllipse(at, 4.0, 4.0)


def _rounded(points: tuple[QPointF, ...]) -> QPainterPath:
    """A line through the points whose corners are round. It ends a little before the tip, under the arrow's head."""
    path = QPainterPath(points[0])
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(CORNER, _length(before, corner) / 2, _length(corner, after) / 2)
        path.lineTo(_towards(corner, before, radius))
        path.quadTo(corner, _towards(corner, after, radius))
    path.lineTo(_towards(points[-1], points[-2], HEAD * 0.8))
    return path


def _length(a: QPointF, b: QPointF) -> float:
    return math.dist(a.toTuple(), b.toTuple())


def _towards(start: QPointF, target: QPointF, distance: float) -> QPointF:
    length = _length(start, target)
    return start + (target - start) * (distance / length) if length else QPointF(start)
