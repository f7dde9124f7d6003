"""The waterfall with what belongs to it: what an average token took, zoom, a legend, and figures of one token."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, Slot
from PySide6.QtGui import QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.runs.waterfall import Shares
from app.ui import make
from app.ui.runs.timeline import Growth, Timeline
from app.ui.runs.timing_bar import TimingBar, token_phases
from app.ui.runs.waterfall_paint import brush_of
from app.ui.runs.waterfall_view import WaterfallView
from app.ui.theme import SPACING, ThemeKeeper

HINT = "Point at a token, or go to one with the arrow keys, to see its figures."


class WaterfallPanel(QWidget):
    """Shows a Timeline and its Shares."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.view = WaterfallView(theme, self)
        self._average = TimingBar(theme, self)
        self._average_title = make.label("An average token of the answer", "heading", self)
        title = make.label("Each token, stage by stage", "heading", self)
        self.figures = make.label(HINT, "muted", self, wraps=True, is_plain=True, name="Figures of the token")
        # Two lines whatever is pointed at: the picture must not jump under the mouse.
        self.figures.setMinimumHeight(2 * self.figures.fontMetrics().lineSpacing())
        self.figures.setAlignment(Qt.AlignmentFlag.AlignTop)
        tools = make.row(title, make.STRETCH, _Legend(theme, self), SPACING, spacing=SPACING // 2)
        for name, text, run in (
            ("zoom-out", "Zoom out (−)", self.view.zoom_out), ("zoom-in", "Zoom in (+)", self.view.zoom_in),
            ("maximize", "Show all of it (0)", self.view.fit),
        ):  # fmt: skip
            tools.addWidget(make.tool(name, text, run, self))
        make.column(
            self._average_title, self._average, tools, (self.view, 1), self.figures, within=self,
            margins=(2 * SPACING, SPACING, 2 * SPACING, SPACING),
        )  # fmt: skip
        self.view.pointed.connect(self._on_pointed)

    def show_timeline(self, timeline: Timeline, shares: Shares | None, keep_place: bool = False) -> None:
        """Show a request. `keep_place` where it is the one that was shown before."""
        self.view.show_timeline(timeline, keep_place)
        self._show_shares(shares)

    def grow(self, more: Growth, shares: Shares) -> None:
        """The request that is shown has got on."""
        self.view.grow(more)
        self._show_shares(shares)

    def _show_shares(self, shares: Shares | None) -> None:
        self._average.show_phases(() if shares is None else token_phases(shares), "An average token of the answer")
        self._average_title.setVisible(self._average.isVisibleTo(self))

    @Slot(str)
    def _on_pointed(self, words: str) -> None:
        self.figures.setText(words or HINT)


class _Legend(QWidget):
    """What the patterns mean."""

    WORDS = (("Computing", 0, False), ("Waiting for a turn", 0, True), ("On the way", None, False))

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Legend")
        self.setAccessibleDescription("Filled: computing. Striped: waiting for a turn. Dotted: on the way.")
        theme.changed.connect(self.update)

    def sizeHint(self) -> QSize:
        metrics = self.fontMetrics()
        width = sum(metrics.horizontalAdvance(word) + 5 * SPACING for word, _, _ in self.WORDS)
        return QSize(width, metrics.height())

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        metrics, x = self.fontMetrics(), 0.0
        for word, stage, waiting in self.WORDS:
            brush = brush_of(self._theme.colors, stage, waiting)
            box = QRectF(x + 0.5, (self.height() - 10) / 2, 2 * SPACING, 10)
            painter.setPen(QPen(brush.color(), 1))
            painter.setBrush(brush)
            painter.drawRect(box)
            painter.setPen(self._theme.colors.muted)
            width = metrics.horizontalAdvance(word) + SPACING
            painter.drawText(QRectF(x + 2.5 * SPACING, 0, width, self.height()), Qt.AlignmentFlag.AlignVCenter, word)
            x += width + 4 * SPACING
