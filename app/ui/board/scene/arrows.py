"""The pipeline's arrows: their ways through the room between the cards, how they are drawn, and the pulses on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from PySide6.QtCore import QElapsedTimer, QObject, QPointF, QRectF, Qt, Slot
from PySide6.QtGui import QBrush, QColor, QPainter, QPainterPath, QPen, QPolygonF
from PySide6.QtWidgets import QGraphicsItem, QStyleOptionGraphicsItem, QWidget

from app.ui import make
from app.ui.board.scene.layout import Grid
from app.ui.board.scene.look import Look, faded, mixed

FIRST_LANE = 12.0
LANE_STEP = 7.0
LANES = 5
COLUMN_OFFSETS = (0.0, 6.0, -6.0, 12.0, -12.0)
CORNER = 7.0
HEAD = 7.0
GLOW = 9.0
"""Radius of what a pulse touches."""
FRAME_MILLISECONDS = 33
LINGER_MILLISECONDS = 600
"""Arrows stay lit for so long after the last news."""
PULSES_PER_SECOND = 1.1


@dataclass(frozen=True)
class Port:
    """Where arrows touch a block: all leave and enter through its lower edge."""

    card: int
    """Index in the grid."""
    enter: float
    leave: float
    bottom: float


@dataclass(frozen=True)
class Route:
    """An arrow's corners, from block to block."""

    stage: int
    """Where it begins."""
    is_return: bool
    points: tuple[QPointF, ...]


@dataclass
class _Lanes:
    """Which stretches of a gutter are taken."""

    taken: list[list[tuple[float, float]]] = field(default_factory=lambda: [[] for _ in range(LANES)])

    def take(self, a: float, b: float) -> int:
        low, high = min(a, b) - 4, max(a, b) + 4
        for number, stretches in enumerate(self.taken):
            if all(high <= start or low >= end for start, end in stretches):
                stretches.append((low, high))
                return number
        return LANES - 1  # so many arrows in one gutter lie upon each other at its lower edge


def routes(grid: Grid, ports: Sequence[Port | None]) -> list[Route]:
    """The arrows of a pipeline whose stages have these ports (None: not placed), the way back last."""
    gutters: dict[int, _Lanes] = {}
    columns: dict[int, _Lanes] = {}

    def way(source: Port, target: Port) -> tuple[QPointF, ...]:
        out_row, in_row = grid.row(source.card), grid.row(target.card)
        out_x, in_x = source.leave, target.enter
        if out_row == in_row:
            y = grid.gutter_top(out_row) + _depth(gutters.setdefault(out_row, _Lanes()).take(out_x, in_x))
            corners = [QPointF(out_x, y), QPointF(in_x, y)]
        else:
            column = min(
                range(grid.columns + 1), key=lambda c: abs(out_x - grid.lane_x(c)) + abs(grid.lane_x(c) - in_x)
            )
            tops = grid.gutter_top(out_row), grid.gutter_top(in_row)
            x = grid.lane_x(column) + COLUMN_OFFSETS[columns.setdefault(column, _Lanes()).take(*tops)]
            out_y = tops[0] + _depth(gutters.setdefault(out_row, _Lanes()).take(out_x, x))
            in_y = tops[1] + _depth(gutters.setdefault(in_row, _Lanes()).take(x, in_x))
            corners = [QPointF(out_x, out_y), QPointF(x, out_y), QPointF(x, in_y), QPointF(in_x, in_y)]
        return (QPointF(out_x, source.bottom), *corners, QPointF(in_x, target.bottom))

    found = []
    for stage, (source, target) in enumerate(pairwise(ports)):
        if source is not None and target is not None:
            found.append(Route(stage, False, way(source, target)))
    if len(ports) > 1 and (last := ports[-1]) is not None and (first := ports[0]) is not None:
        found.append(Route(len(ports) - 1, True, way(last, first)))
    return found


def _depth(lane: int) -> float:
    return FIRST_LANE + lane * LANE_STEP


class ArrowItem(QGraphicsItem):
    """From one stage to the next. Cheap to animate: a pulse repaints only where it was and where it is."""

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


class Pulse(QObject):
    """Runs along the arrows while activations pass. No timer runs while nothing passes."""

    def __init__(self, arrows: Callable[[], Sequence[ArrowItem]], parent: QObject) -> None:
        super().__init__(parent)
        self.animated = True
        """Else the arrows are only lit."""
        self._arrows = arrows
        self._frames = make.timer(self, self._on_frame, FRAME_MILLISECONDS, once=False)
        self._end = make.timer(self, self.stop, LINGER_MILLISECONDS)
        self._time = QElapsedTimer()

    @property
    def is_running(self) -> bool:
        """Whether frames are drawn."""
        return self._frames.isActive()

    @property
    def is_lit(self) -> bool:
        return self._end.isActive()

    def beat(self) -> None:
        """Activations passed."""
        if not self._end.isActive():
            self.light()
            self._time.start()
        self._end.start()
        if self.animated and not self._frames.isActive():
            self._frames.start()

    def light(self) -> None:
        """Light the arrows there are now: they may have been made anew."""
        for arrow in self._arrows():
            arrow.set_lit(True)

    @Slot()
    def stop(self) -> None:
        """Nothing passes, or nobody looks."""
        self._frames.stop()
        self._end.stop()
        for arrow in self._arrows():
            arrow.set_lit(False)

    @Slot()
    def _on_frame(self) -> None:
        passed = self._time.elapsed() / 1000 * PULSES_PER_SECOND
        arrows = self._arrows()
        for number, arrow in enumerate(arrows):
            arrow.set_phase((passed - number / max(len(arrows), 1)) % 1.0)
