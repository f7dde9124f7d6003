"""The waterfall of a request: where each token's time went, stage by stage. Zoom, scroll, point at a token.

With the keyboard: left and right go from token to token, + and - zoom, 0 shows all of it.
"""

from __future__ import annotations

import math

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import (
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QToolTip, QWidget

from app.ui.runs.timeline import Growth, Timeline
from app.ui.runs.waterfall_paint import WaterfallPainter, Window
from app.ui.theme import SPACING, ThemeKeeper

CLOSEST = 2.0
"""Microseconds to a pixel."""
FACTOR = 1.5
"""One step of zooming."""
MARGIN = 1.02
"""All of it, and a little room behind."""
TALLEST = 2.5
"""Times the height that a lane has at least."""
MOST_GUTTER = 0.3
"""Of the width, for the names of the lanes."""


class WaterfallView(QAbstractScrollArea):
    """Shows a Timeline."""

    pointed = Signal(str)
    """The trip under the mouse or the cursor in words; empty when there is none."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._timeline = Timeline()
        self._scale: float | None = None
        """Microseconds to a pixel; None while all of it is to be seen."""
        self._picture: QPixmap | None = None
        self._hovered: int | None = None
        self.current: int | None = None
        """The trip that the keyboard is at."""
        self._dragged: QPointF | None = None
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Waterfall of the request")
        self.viewport().setMouseTracking(True)
        self.horizontalScrollBar().valueChanged.connect(self._repaint)
        self.verticalScrollBar().valueChanged.connect(self._repaint)
        theme.changed.connect(self._repaint)

    # --- what it shows ---

    @property
    def timeline(self) -> Timeline:
        return self._timeline

    def show_timeline(self, timeline: Timeline, keep_place: bool = False) -> None:
        """Show a request: all of it, or where its picture was looked at before."""
        self._timeline, self._hovered = timeline, None
        if not keep_place:
            self._scale = self.current = None
        elif self.current is not None and self.current >= len(timeline.trips):
            self.current = None
        self._lay_out()
        self._describe()
        self.pointed.emit("")

    def grow(self, more: Growth) -> None:
        """The request has got on. Who looks at the end goes with it, who looks elsewhere stays there."""
        bar = self.horizontalScrollBar()
        at_end = bar.value() >= bar.maximum()
        self._timeline.grow(more)
        self._lay_out()
        if at_end and self._scale is not None:
            bar.setValue(bar.maximum())
        self._describe()

    def _describe(self) -> None:
        timeline = self._timeline
        stages = max(0, len(timeline.lanes) - 1)
        self.setAccessibleDescription(
            "" if timeline.is_empty else f"{timeline.tokens:,} tokens on {stages} stage{'' if stages == 1 else 's'}; "
            "left and right go from token to token, plus and minus zoom, 0 shows all of it"
        )  # fmt: skip

    # --- zoom ---

    @Slot()
    def zoom_in(self) -> None:
        self._zoom(1 / FACTOR, self._middle())

    @Slot()
    def zoom_out(self) -> None:
        self._zoom(FACTOR, self._middle())

    @Slot()
    def fit(self) -> None:
        """All of it."""
        self._scale = None
        self._lay_out()

    def _middle(self) -> float:
        """Where to zoom without a mouse: at the current trip, if it is in sight."""
        window = self.window_now
        if self.current is not None:
            x = window.x((self._timeline.begins[self.current] + self._timeline.ends[self.current]) / 2)
            if window.gutter <= x <= window.width:
                return x
        return (window.gutter + window.width) / 2

    def _zoom(self, factor: float, x: float) -> None:
        if self._timeline.is_empty:
            return
        window = self.window_now
        at = window.us(x)
        wanted = max(CLOSEST, window.us_per_pixel * factor)
        self._scale = wanted if wanted < self._whole() else None
        self._lay_out()
        if self._scale is not None:
            self.horizontalScrollBar().setValue(round(at / self._scale - (x - window.gutter)))

    def _whole(self) -> float:
        """Microseconds to a pixel at which all of it is in sight."""
        room = max(1.0, self.viewport().width() - self._gutter())
        return max(1.0, self._timeline.end_us * MARGIN) / room

    # --- where things are ---

    def _gutter(self) -> float:
        metrics = self.fontMetrics()
        widest = max((metrics.horizontalAdvance(lane.name) for lane in self._timeline.lanes), default=0)
        return min(MOST_GUTTER * self.viewport().width(), widest + 3.0 * SPACING)

    def _lane(self) -> float:
        """As high as there is room for, so that a column far away can be told from the next one."""
        least = self.fontMetrics().height() + SPACING
        room = (self.viewport().height() - self._head()) / (1 + len(self._timeline.lanes))
        return max(least, min(TALLEST * least, room))

    def _head(self) -> float:
        return self.fontMetrics().height() + SPACING / 2

    @property
    def window_now(self) -> Window:
        scale = self._scale or self._whole()
        return Window(
            left_us=self.horizontalScrollBar().value() * scale if self._scale is not None else 0.0,
            us_per_pixel=scale,
            width=self.viewport().width(),
            height=self.viewport().height(),
            gutter=self._gutter(),
            head=self._head(),
            lane=self._lane(),
            scrolled=self.verticalScrollBar().value(),
        )

    def _lay_out(self) -> None:
        """Ranges of the scroll bars."""
        across, down = self.horizontalScrollBar(), self.verticalScrollBar()
        room = round(self.viewport().width() - self._gutter())
        across.setPageStep(max(1, room))
        across.setSingleStep(4 * SPACING)
        scale = self._scale
        across.setRange(0, max(0, round(self._timeline.end_us * MARGIN / scale) - room) if scale is not None else 0)
        high = math.floor(self._head() + (1 + len(self._timeline.lanes)) * self._lane())
        down.setPageStep(self.viewport().height())
        down.setSingleStep(round(self._lane()))
        down.setRange(0, max(0, high - self.viewport().height()))
        self._repaint()

    def sizeHint(self) -> QSize:
        lanes = 1 + max(3, len(self._timeline.lanes))
        return QSize(
            60 * SPACING,
            round(self.fontMetrics().height() + SPACING + lanes * (self.fontMetrics().height() + SPACING))
            + 2 * SPACING,
        )

    def minimumSizeHint(self) -> QSize:
        return QSize(30 * SPACING, round(5 * (self.fontMetrics().height() + SPACING)))

    # --- painting ---

    @Slot()
    def _repaint(self) -> None:
        self._picture = None
        self.viewport().update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._lay_out()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self.viewport())
        window = self.window_now
        if self._picture is None:
            ratio = self.devicePixelRatioF()
            self._picture = QPixmap(self.viewport().size() * ratio)
            self._picture.setDevicePixelRatio(ratio)
            inner = QPainter(self._picture)
            inner.setFont(self.font())
            WaterfallPainter(inner, self._theme.colors, window, self._timeline).paint()
            inner.end()
        painter.drawPixmap(0, 0, self._picture)
        for trip, width in ((self._hovered, 1.0), (self.current if self.hasFocus() else None, 2.0)):
            if trip is not None and trip < len(self._timeline.trips):
                left, right = window.x(self._timeline.begins[trip]), window.x(self._timeline.ends[trip])
                painter.setClipRect(QRectF(window.gutter, 0, window.width, window.height))
                painter.setPen(QPen(self._theme.colors.accent, width))
                painter.drawRect(QRectF(left, window.head + 1, max(2.0, right - left), window.height - window.head - 2))

    # --- pointing ---

    def _point(self, trip: int | None) -> None:
        if trip != self._hovered:
            self._hovered = trip
            self.viewport().update()
            self._say(trip if trip is not None else self.current)

    def _say(self, trip: int | None) -> None:
        self.pointed.emit(" · ".join(self._timeline.words(trip)) if trip is not None else "")

    def go_to(self, trip: int) -> None:
        """Make a trip the current one, and show it."""
        if self._timeline.is_empty:
            return
        self.current = max(0, min(trip, len(self._timeline.trips) - 1))
        window, bar = self.window_now, self.horizontalScrollBar()
        left, right = window.x(self._timeline.begins[self.current]), window.x(self._timeline.ends[self.current])
        if left < window.gutter:
            bar.setValue(bar.value() - round(window.gutter - left + 4 * SPACING))
        elif right > window.width:
            bar.setValue(bar.value() + round(right - window.width + 4 * SPACING))
        self.viewport().update()
        self._say(self.current)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._dragged is not None:
            moved = event.position() - self._dragged
            self._dragged = event.position()
            across, down = self.horizontalScrollBar(), self.verticalScrollBar()
            across.setValue(across.value() - round(moved.x()))
            down.setValue(down.value() - round(moved.y()))
        window = self.window_now
        inside = event.position().x() >= window.gutter
        self._point(self._timeline.trip_at(window.us(event.position().x())) if inside else None)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._dragged = event.position()
            if self._hovered is not None:
                self.current = self._hovered
                self.viewport().update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._dragged = None

    def viewportEvent(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Leave:
            self._point(None)
        elif event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            if self._hovered is not None:
                QToolTip.showText(event.globalPos(), "\n".join(self._timeline.words(self._hovered)), self.viewport())
            return True
        return super().viewportEvent(event)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Ctrl zooms where the mouse is; Shift, or a wheel of its own, moves along."""
        delta = event.angleDelta()
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self._zoom(FACTOR ** (-delta.y() / 120), event.position().x())
        elif delta.x() or event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            bar = self.horizontalScrollBar()
            bar.setValue(bar.value() - (delta.x() or delta.y()))
        else:
            super().wheelEvent(event)
            return
        event.accept()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        last = len(self._timeline.trips) - 1
        known = self.current
        match event.key():
            case Qt.Key.Key_Right:
                self.go_to(0 if known is None else known + 1)
            case Qt.Key.Key_Left:
                self.go_to(last if known is None else known - 1)
            case Qt.Key.Key_Home:
                self.go_to(0)
            case Qt.Key.Key_End:
                self.go_to(last)
            case Qt.Key.Key_Plus | Qt.Key.Key_Equal:
                self.zoom_in()
            case Qt.Key.Key_Minus:
                self.zoom_out()
            case Qt.Key.Key_0:
                self.fit()
            case _:
                super().keyPressEvent(event)
