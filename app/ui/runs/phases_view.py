"""The phases of a deployment or a job as bars over time: a line for each node, and what each phase moved."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QBrush, QHelpEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.figures import micros
from app.runs.telling import phase_text
from app.runs.trace import Phase
from app.ui.runs.waterfall_paint import fill, steps_of
from app.ui.theme import SPACING, ThemeKeeper

_LOOKS = {
    "hashing": (4, Qt.BrushStyle.HorPattern),
    "sending": (0, Qt.BrushStyle.SolidPattern),
    "downloading": (0, Qt.BrushStyle.SolidPattern),
    "loading": (1, Qt.BrushStyle.SolidPattern),
    "linking": (2, Qt.BrushStyle.BDiagPattern),
    "verifying": (3, Qt.BrushStyle.BDiagPattern),
}
"""Number of the colour, and the pattern, of phases that are known; others take turns."""
_TURNS = ((5, Qt.BrushStyle.SolidPattern), (6, Qt.BrushStyle.BDiagPattern), (7, Qt.BrushStyle.Dense5Pattern))


class PhasesView(QWidget):
    """Paints phases; each has its name in it where there is room, and its figures under the mouse and below."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._lines: list[tuple[str, tuple[Phase, ...]]] = []
        self._end = 1
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Phases")
        theme.changed.connect(self.update)

    def show_phases(self, phases: Sequence[Phase]) -> None:
        ordered = sorted(phases, key=lambda phase: (phase.node_id is not None, phase.node_id or 0, phase.began_us))
        self._lines = [
            (name or "Controller", tuple(found)) for name, found in groupby(ordered, key=lambda phase: phase.node)
        ]
        self._end = max((phase.ended_us for phase in phases), default=1) or 1
        self.setAccessibleDescription("; ".join(map(phase_text, ordered)))
        self.setVisible(bool(phases))
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(40 * SPACING, round(self._head + len(self._lines) * self._line) + SPACING)

    @property
    def _head(self) -> float:
        return self.fontMetrics().height() + SPACING / 2

    @property
    def _line(self) -> float:
        return self.fontMetrics().height() + 1.5 * SPACING

    @property
    def _gutter(self) -> float:
        widest = max((self.fontMetrics().horizontalAdvance(name) for name, _ in self._lines), default=0)
        return min(0.3 * self.width(), widest + 2.0 * SPACING)

    def _place(self, number: int, phase: Phase) -> QRectF:
        room = self.width() - self._gutter - SPACING
        left = self._gutter + phase.began_us / self._end * room
        width = max(2.0, (phase.ended_us - phase.began_us) / self._end * room - 1)
        top = self._head + number * self._line + SPACING / 4
        return QRectF(left, top, width, self._line - SPACING / 2)

    def _look(self, name: str) -> tuple[QBrush, bool]:
        others = sorted({phase.name for _, line in self._lines for phase in line} - set(_LOOKS))
        number, style = _LOOKS.get(name) or _TURNS[others.index(name) % len(_TURNS)]
        return QBrush(self._theme.colors.of(number), style), style is Qt.BrushStyle.SolidPattern

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        colors, metrics = self._theme.colors, self.fontMetrics()
        self._paint_axis(painter)
        middle = Qt.AlignmentFlag.AlignVCenter
        for number, (name, phases) in enumerate(self._lines):
            painter.setPen(colors.muted)
            words = metrics.elidedText(name, Qt.TextElideMode.ElideRight, round(self._gutter - SPACING))
            painter.drawText(QRectF(0, self._head + number * self._line, self._gutter, self._line), middle, words)
            for phase in phases:
                place = self._place(number, phase)
                brush, is_solid = self._look(phase.name)
                fill(painter, place, brush)
                width = metrics.horizontalAdvance(phase.name)
                if width + SPACING > place.width():
                    continue
                text = QRectF(place.left() + SPACING / 2, place.top(), width + 2, place.height())
                if not is_solid:  # letters on stripes cannot be read
                    painter.fillRect(text.adjusted(-2, 2, 2, -2), colors.surface)
                painter.setPen(colors.on_accent if is_solid else colors.text)
                painter.drawText(text, middle, phase.name)

    def _paint_axis(self, painter: QPainter) -> None:
        room = self.width() - self._gutter - SPACING
        step = steps_of(self._end / max(1.0, room / 100))
        for number in range(int(self._end / step) + 1):
            x = self._gutter + number * step / self._end * room
            painter.setPen(QPen(self._theme.colors.border, 1, Qt.PenStyle.DotLine))
            painter.drawLine(QPointF(x, self._head), QPointF(x, self.height()))
            painter.setPen(self._theme.colors.muted)
            text = micros(number * step) if number else "0"
            if x + self.fontMetrics().horizontalAdvance(text) < self.width():
                painter.drawText(QPointF(x, self.fontMetrics().ascent()), text)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            at = QPointF(event.pos())
            found = (
                phase
                for number, (_, phases) in enumerate(self._lines)
                for phase in phases
                if self._place(number, phase).contains(at)
            )
            phase = next(found, None)
            QToolTip.showText(event.globalPos(), phase_text(phase) if phase is not None else "", self)
            return True
        return super().event(event)
