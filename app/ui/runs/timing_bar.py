"""Where time went, as a bar drawn to scale with a legend: of a request, or of each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QBrush, QPainter, QPainterPath, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.runs import telling
from app.runs.telling import TimeShare
from app.runs.waterfall import Shares
from app.ui.runs.waterfall_paint import READY, WAITING, WIRE, fill
from app.ui.theme import SPACING, ThemeKeeper


@dataclass(frozen=True)
class TimePart:
    """A part of the time. `series` is the number of its colour, None for a muted one; `style` tells it apart, too."""

    name: str
    seconds: float
    series: int | None
    style: Qt.BrushStyle = Qt.BrushStyle.SolidPattern


class TimingBar(QWidget):
    """Paints the phases; nothing for a request without timings."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._phases: tuple[TimePart, ...] = ()
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        theme.changed.connect(self.update)

    def show_phases(self, phases: Sequence[TimePart], title: str = "Where the time went") -> None:
        self._phases = tuple(phases)
        self.setAccessibleName(title)
        self.setAccessibleDescription(", ".join(map(self._words, self._phases)))
        self.setToolTip("\n".join(map(self._words, self._phases)))
        self.setVisible(bool(self._phases))
        self._fit()
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(30 * SPACING, self._height(self.width()))

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        return self._height(width)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.setFixedHeight(self._height(self.width()))

    def _height(self, width: int) -> int:
        rows = 1 + max((row for _, _, row in self._legend(width)), default=0)
        return 2 * SPACING + SPACING + rows * (self.fontMetrics().height() + SPACING // 2)

    def _legend(self, width: int) -> list[tuple[TimePart, int, int]]:
        """Each phase with the place of its words: x and the number of the line."""
        places, x, row = [], 0, 0
        for phase in self._phases:
            needed = self.fontMetrics().horizontalAdvance(self._words(phase)) + 2 * SPACING
            if x and x + needed > width:
                x, row = 0, row + 1
            places.append((phase, x, row))
            x += needed + 2 * SPACING
        return places

    def _words(self, phase: TimePart) -> str:
        whole = sum(each.seconds for each in self._phases)
        return f"{phase.name}  {telling.share_words(phase.seconds * _SECOND, phase.seconds / whole)}"

    def _brush(self, phase: TimePart) -> QBrush:
        colors = self._theme.colors
        return QBrush(colors.kv if phase.series is None else colors.of(phase.series), phase.style)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colors = self._theme.colors
        bar = QRectF(0, 0, self.width(), 2 * SPACING)
        outline = QPainterPath()
        outline.addRoundedRect(bar, 4, 4)
        painter.setClipPath(outline)
        painter.fillRect(bar, colors.sunken)
        total = sum(phase.seconds for phase in self._phases) or 1.0
        x = 0.0
        for phase in self._phases:
            width = max(2.0, bar.width() * phase.seconds / total)
            fill(painter, QRectF(x, 0, width - 1, bar.height()), self._brush(phase))
            x += width
        painter.setClipping(False)
        line = self.fontMetrics().height()
        for phase, left, row in self._legend(self.width()):
            top = 3 * SPACING + row * (line + SPACING // 2)
            dot = QRectF(left, top + (line - SPACING) / 2, SPACING, SPACING)
            painter.setPen(QPen(self._brush(phase).color(), 1))
            painter.setBrush(self._brush(phase))
            painter.drawRoundedRect(dot, 2, 2)
            painter.setPen(colors.muted)
            text = QRectF(left + 1.5 * SPACING, top, self.width() - left, line)
            painter.drawText(text, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, self._words(phase))


_SECOND = 1e6
_LOOKS = {
    "prepare": (None, READY), "prompt": (1, Qt.BrushStyle.SolidPattern), "compute": (0, Qt.BrushStyle.SolidPattern),
    "queue": (0, WAITING), "wire": (None, WIRE), "interrupted": (None, WAITING),
}  # fmt: skip


def request_phases(times: Sequence[TimeShare]) -> tuple[TimePart, ...]:
    """From the question to the last token."""
    return tuple(TimePart(part.name, part.us / _SECOND, *_LOOKS[part.kind]) for part in times)


def token_phases(shares: Shares) -> tuple[TimePart, ...]:
    """Of a token after the first, on average: computing on each stage, waiting, on the way."""
    count = shares.tokens - 1
    if count < 1 or shares.decode_us <= 0:
        return ()
    each = 1 / (_SECOND * count)
    found = [
        TimePart(f"{stage.stage + 1} · {stage.node}", stage.compute_us * each, stage.stage) for stage in shares.stages
    ]
    found.append(TimePart(telling.WAITING, shares.queue_us * each, 0, WAITING))
    found.append(TimePart(telling.ON_THE_WAY, shares.wire_us * each, None, WIRE))
    return tuple(phase for phase in found if phase.seconds > 0)
