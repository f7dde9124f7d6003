"""The round mark of a step: its number, a turning arc while it runs, a tick or a cross at the end."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, Slot
from PySide6.QtGui import QHideEvent, QPainter, QPaintEvent, QPen, QShowEvent
from PySide6.QtWidgets import QWidget

from app.ui import make
from app.ui.icons import draw_icon
from app.ui.shell.setup_step import StepState
from app.ui.theme import ThemeKeeper

FRAME_MILLISECONDS = 50
DEGREES = 15


class StepBadge(QWidget):
    """Paints itself; turns only while it is seen and animations are wanted."""

    def __init__(self, number: int, theme: ThemeKeeper, animated: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._number, self._theme, self._animated = number, theme, animated
        self._state = StepState.WAITING
        self._angle = 90
        self._clock = make.timer(self, self._turn, FRAME_MILLISECONDS, once=False)
        theme.changed.connect(self.update)
        self.setFixedSize(self.sizeHint())

    def sizeHint(self) -> QSize:
        side = self.fontMetrics().height() * 2
        return QSize(side, side)

    def show_state(self, state: StepState) -> None:
        if state is not self._state:
            self._state = state
            self._run_clock()
            self.update()

    def _run_clock(self) -> None:
        wanted = self._state is StepState.RUNNING and self._animated and self.isVisible()
        if wanted and not self._clock.isActive():
            self._clock.start()
        elif not wanted:
            self._clock.stop()

    @Slot()
    def _turn(self) -> None:
        self._angle = (self._angle - DEGREES) % 360
        self.update()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._run_clock()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._run_clock()

    def paintEvent(self, event: QPaintEvent) -> None:
        colors = self._theme.colors
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        circle = QRectF(self.rect()).adjusted(1.5, 1.5, -1.5, -1.5)
        ground, color = {
            StepState.DONE: (colors.ok_soft, colors.ok),
            StepState.FAILED: (colors.error_soft, colors.error),
        }.get(self._state, (colors.accent_soft, colors.accent))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(ground)
        painter.drawEllipse(circle)
        if self._state in (StepState.DONE, StepState.FAILED):
            inset = circle.width() * 0.25
            sign = "check" if self._state is StepState.DONE else "x"
            draw_icon(painter, sign, circle.adjusted(inset, inset, -inset, -inset), color)
            return
        painter.setPen(color)
        font = self.font()
        font.setWeight(font.Weight.DemiBold)
        painter.setFont(font)
        painter.drawText(circle, Qt.AlignmentFlag.AlignCenter, str(self._number))
        if self._state is StepState.RUNNING:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(color, 2.5, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap))
            painter.drawArc(circle, self._angle * 16, 100 * 16)
