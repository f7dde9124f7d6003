"""How a waterfall is painted: axis, trips, a lane for each stage. Pixels of one picture; scrolling is the view's.

Near, each stretch is a block. Far, where a pixel holds many tokens, a column's height says how much of that time the
stage computed and how much it kept steps waiting. Kinds differ in pattern, too, not in colour alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QBrush, QColor, QFontMetrics, QPainter, QPen

from app.figures import micros
from app.ui.runs.timeline import Lane, Timeline, Track
from app.ui.theme import SPACING, Colors

LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
CENTER = Qt.AlignmentFlag.AlignCenter
WAITING = Qt.BrushStyle.BDiagPattern
WIRE = Qt.BrushStyle.Dense6Pattern
READY = Qt.BrushStyle.HorPattern
NEAR = 6.0
"""Pixels of a token from which on its stretches are drawn one by one."""
TICK = 90.0
"""Pixels between two marks of the axis, at least."""
TINT = 70
"""Of 255, behind a pattern."""
COLUMN = 2.0
"""Width of a column when many tokens share it."""


@dataclass(frozen=True)
class Window:
    """What is in sight: from `left_us` on, so many microseconds to a pixel, in a picture of this size.

    Lanes are `lane` pixels high and begin `scrolled` pixels higher than there would be room for all.
    """

    left_us: float
    us_per_pixel: float
    width: float
    height: float
    gutter: float
    head: float
    lane: float
    scrolled: float = 0.0

    @property
    def right_us(self) -> float:
        return self.left_us + (self.width - self.gutter) * self.us_per_pixel

    def x(self, us: float) -> float:
        return self.gutter + (us - self.left_us) / self.us_per_pixel

    def us(self, x: float) -> float:
        return self.left_us + (x - self.gutter) * self.us_per_pixel

    def lane_rect(self, number: int) -> QRectF:
        """Number 0 is the lane of the trips."""
        return QRectF(0, self.head + number * self.lane - self.scrolled, self.width, self.lane)


def steps_of(us: float) -> float:
    """The round figure above: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(us, 1.0)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= us)


def brush_of(colors: Colors, stage: int | None, waiting: bool = False) -> QBrush:
    """What a kind of stretch is filled with."""
    if stage is None:
        return QBrush(colors.muted, WIRE)
    return QBrush(colors.of(stage), WAITING) if waiting else QBrush(colors.of(stage))


def fill(painter: QPainter, place: QRectF, brush: QBrush) -> None:
    """Fill a place; behind a pattern lies a tint of it, so that a narrow stretch does not fall between its lines."""
    if brush.style() is not Qt.BrushStyle.SolidPattern:
        tint = QColor(brush.color())
        tint.setAlpha(TINT)
        painter.fillRect(place, tint)
    painter.fillRect(place, brush)


class WaterfallPainter:
    """Paints one picture."""

    def __init__(self, painter: QPainter, colors: Colors, window: Window, timeline: Timeline) -> None:
        self._painter, self._colors, self._window, self._timeline = painter, colors, window, timeline
        self._metrics = QFontMetrics(painter.font())

    def paint(self) -> None:
        window, timeline, painter = self._window, self._timeline, self._painter
        painter.fillRect(QRectF(0, 0, window.width, window.height), self._colors.surface)
        painter.save()
        painter.setClipRect(QRectF(window.gutter, window.head, window.width, window.height))
        trips = timeline.within(window.left_us, window.right_us)
        shown = window.right_us - window.left_us
        each = (timeline.end_us - timeline.prepare_us) / max(1, len(timeline.trips)) / window.us_per_pixel
        if len(trips) and len(trips) < len(timeline.trips):
            each = min(shown, timeline.ends[trips[-1]] - timeline.begins[trips[0]]) / len(trips) / window.us_per_pixel
        near = each >= NEAR
        self._paint_grid()
        self._paint_trips(trips, near)
        for number, lane in enumerate(timeline.lanes, start=1):
            place = window.lane_rect(number)
            if place.bottom() > window.head and place.top() < window.height:
                self._paint_lane(lane, place.adjusted(0, 3, 0, -3), near)
        painter.restore()
        self._paint_names()
        self._paint_axis()

    # --- around the lanes ---

    def _ticks(self) -> list[float]:
        step = steps_of(TICK * self._window.us_per_pixel)
        first = math.ceil(max(0.0, self._window.left_us) / step)
        count = int((self._window.right_us - first * step) / step) + 1
        return [(first + number) * step for number in range(max(0, count))]

    def _paint_grid(self) -> None:
        self._painter.setPen(QPen(self._colors.border, 1, Qt.PenStyle.DotLine))
        for tick in self._ticks():
            x = self._window.x(tick)
            self._painter.drawLine(QPointF(x, self._window.head), QPointF(x, self._window.height))

    def _paint_axis(self) -> None:
        window, painter = self._window, self._painter
        painter.fillRect(QRectF(0, 0, window.width, window.head), self._colors.surface)
        painter.setPen(self._colors.muted)
        for tick in self._ticks():
            x = window.x(tick)
            text = _moment(tick, window.us_per_pixel)
            room = self._metrics.horizontalAdvance(text) + 4
            if x >= window.gutter - 1 and x + room <= window.width:
                painter.drawText(QRectF(x + 3, 0, room, window.head), LEFT, text)
                painter.drawLine(QPointF(x, window.head / 2), QPointF(x, window.head))

    def _paint_names(self) -> None:
        window, painter = self._window, self._painter
        painter.fillRect(QRectF(0, window.head, window.gutter, window.height), self._colors.surface)
        names = ["Tokens", *(lane.name for lane in self._timeline.lanes)]
        for number, name in enumerate(names):
            place = window.lane_rect(number)
            if number and number <= len(self._timeline.lanes):
                stage = self._timeline.lanes[number - 1].stage
                dot = QRectF(0, place.center().y() - SPACING / 2, SPACING, SPACING)
                fill(painter, dot, brush_of(self._colors, stage))
            text = place.adjusted(1.5 * SPACING, 0, 0, 0)
            text.setRight(window.gutter - SPACING)
            painter.setPen(self._colors.muted)
            painter.drawText(text, LEFT, self._metrics.elidedText(name, Qt.TextElideMode.ElideRight, int(text.width())))

    # --- what happened ---

    def _paint_trips(self, trips: range, near: bool) -> None:
        window, painter, colors, timeline = self._window, self._painter, self._colors, self._timeline
        place = window.lane_rect(0).adjusted(0, 3, 0, -3)
        if timeline.prepare_us > 0:
            ready = QRectF(window.x(0), place.top(), timeline.prepare_us / window.us_per_pixel, place.height())
            painter.fillRect(ready, QBrush(colors.kv, READY))
            self._label(ready, "Getting ready", colors.text, box=True)
        if not near:
            chunks, all_of_it = timeline.chunks, len(timeline.trips)
            for first, last, word, color in (
                (0, chunks, "Prompt", colors.accent_soft),
                (chunks, all_of_it, f"{timeline.tokens:,} tokens", colors.sunken),
            ):
                if first < last:
                    left, right = window.x(timeline.begins[first]), window.x(timeline.ends[last - 1])
                    span = QRectF(left, place.top(), right - left, place.height())
                    painter.fillRect(span, color)
                    self._label(span, word, colors.text)
            return
        for trip in trips:
            left, right = window.x(timeline.begins[trip]), window.x(timeline.ends[trip])
            span = QRectF(left, place.top(), max(1.0, right - left - 1), place.height())
            is_prompt = trip < timeline.chunks
            painter.fillRect(span, colors.accent_soft if is_prompt else colors.sunken)
            word = "Prompt" if is_prompt else f"{trip - timeline.chunks + 1:,}"
            self._label(span, word, colors.text)

    def _label(self, place: QRectF, text: str, color: QColor, box: bool = False) -> None:
        """In the middle of what is in sight of a block, where it fits."""
        seen = place.intersected(QRectF(self._window.gutter, 0, self._window.width, self._window.height))
        width = self._metrics.horizontalAdvance(text)
        if width + 6 > seen.width():
            return
        if box:
            middle = seen.center()
            self._painter.fillRect(
                QRectF(middle.x() - width / 2 - 4, seen.top(), width + 8, seen.height()), self._colors.surface
            )
        self._painter.setPen(color)
        self._painter.drawText(seen, CENTER, text)

    def _paint_lane(self, lane: Lane, place: QRectF, near: bool) -> None:
        self._painter.fillRect(place.adjusted(self._window.gutter, place.height() - 1, 0, 0), self._colors.sunken)
        busy, waiting = brush_of(self._colors, lane.stage), brush_of(self._colors, lane.stage, waiting=True)
        if near:
            self._paint_blocks(lane.busy, place, busy, lane.stage is not None)
            self._paint_blocks(lane.waiting, place.adjusted(0, place.height() / 4, 0, 0), waiting, True)
        else:
            self._paint_columns(lane, place, busy, waiting)

    def _paint_blocks(self, track: Track, place: QRectF, brush: QBrush, framed: bool) -> None:
        window, painter = self._window, self._painter
        edge = QPen(brush.color(), 1)
        for number in track.within(window.left_us, window.right_us):
            left = max(window.gutter - 2, window.x(track.begins[number]))
            right = min(window.width + 2, window.x(track.ends[number]))
            block = QRectF(left, place.top(), max(1.0, right - left), place.height())
            fill(painter, block, brush)
            if framed and brush.style() != Qt.BrushStyle.SolidPattern and block.width() > 3:
                painter.setPen(edge)
                painter.drawRect(block.adjusted(0.5, 0.5, -0.5, -0.5))

    def _paint_columns(self, lane: Lane, place: QRectF, busy: QBrush, waiting: QBrush) -> None:
        window, painter = self._window, self._painter
        begin, end = max(0.0, window.left_us), min(window.right_us, float(self._timeline.end_us))
        step = COLUMN * window.us_per_pixel
        # Columns stand at whole steps, so that they do not flicker while the picture is moved.
        column = math.floor(begin / step)
        done, waited = lane.busy.covered(column * step), lane.waiting.covered(column * step)
        while column * step < end:
            column += 1
            edge = column * step
            next_done, next_waited = lane.busy.covered(edge), lane.waiting.covered(edge)
            x = window.x(edge - step)
            full = place.height()
            high = min(1.0, (next_done - done) / step) * full
            if high >= 0.5:
                fill(painter, QRectF(x, place.bottom() - high, COLUMN, high), busy)
            above = min(full - high, (next_waited - waited) / step * full)
            if above >= 0.5:
                fill(painter, QRectF(x, place.bottom() - high - above, COLUMN, above), waiting)
            done, waited = next_done, next_waited


def _moment(us: float, us_per_pixel: float) -> str:
    """A mark of the axis, with as many digits as its neighbours need to differ."""
    if us <= 0:
        return "0"
    step = steps_of(TICK * us_per_pixel)
    if us >= 60_000_000 and step >= 1_000_000:
        return micros(us)
    for size, unit in ((1_000_000, "s"), (1_000, "ms"), (1, "µs")):
        if us >= size:
            digits = max(0, -math.floor(math.log10(step / size) + 1e-9))
            return f"{us / size:,.{digits}f} {unit}"
    return f"{us:.0f} µs"
