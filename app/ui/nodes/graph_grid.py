"""All graphs in one scene, redrawn one after the other so that no turn of the GUI thread takes long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, Signal, Slot
from PySide6.QtGui import QFont
from PySide6.QtWidgets import QWidget

from app.figures import duration
from app.ui import make
from app.ui.cluster import Sample
from app.ui.nodes.graph_plot import LOOKS, MOST_CURVES, GraphPlot
from app.ui.nodes.graph_series import Figure, NodeSeries
from app.ui.theme import ThemeKeeper

TURN_MILLISECONDS = 100
"""One graph is drawn anew in each turn; a round of six takes 0.6 s, and samples come once a second."""
_LINES = 13
"""Of text: lower than this, two rows of graphs cannot be read."""
_COLUMN_WIDTH = 100.0
"""Preferred by all alike, so that they share the room equally."""
COLUMNS = 6
"""Of the grid; a graph takes two of them, or three where only two stand in a row."""


class GraphGrid(QWidget):
    """Six graphs at most. Made only when the screen is first shown, since it needs pyqtgraph.

    Args:
        history: a node's samples, oldest first.
        clock: time.time, or a test's.
    """

    read_out = Signal(object)
    """A tuple: what the pointer is over ("CPU, 2 min ago") and a text per curve; None when it is over nothing."""

    def __init__(
        self, history: Callable[[int], Sequence[Sample]], theme: ThemeKeeper, clock: Callable[[], float],
        parent: QWidget | None = None,
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self._history, self._theme, self._clock = history, theme, clock
        self._nodes: tuple[int, ...] = ()
        self._series: dict[int, NodeSeries] = {}
        self._seconds = 600
        self._now = clock()
        self._next = 0
        self._pointer: QPointF | None = None
        self._pointer_moved = False
        self.paused = False
        font = QFont(self.font())
        font.setPointSizeF(font.pointSizeF() * 0.85)
        self._view = pg.GraphicsLayoutWidget()
        self._view.setAccessibleName("Graphs of the selected nodes")
        self._view.ci.layout.setContentsMargins(4, 0, 12, 4)
        self._view.ci.layout.setSpacing(6)
        self._view.setMinimumHeight(_LINES * self.fontMetrics().height())
        self.plots = {figure: GraphPlot(figure, font) for figure in Figure}
        self._arranged: tuple[Figure, ...] = ()
        make.column(self._view, within=self, spacing=None)
        self._timer = make.timer(self, self.turn, TURN_MILLISECONDS, once=False)
        for plot in self.plots.values():
            plot.on_zoom = self._on_zoom
        self._view.scene().sigMouseMoved.connect(self._on_moved)
        self._view.viewport().installEventFilter(self)
        theme.changed.connect(self._on_theme)
        self._arrange(with_gpu=False)
        self._on_theme()
        self.reset()

    @property
    def nodes(self) -> tuple[int, ...]:
        """Those drawn, in the order of their colours."""
        return self._nodes

    def show_nodes(self, nodes: Sequence[int], *, with_gpu: bool) -> None:
        """Draw these, eight at most. The graph of GPUs is there when any node has one."""
        nodes = tuple(nodes[:MOST_CURVES])
        self._arrange(with_gpu=with_gpu)
        if nodes != self._nodes:
            self._nodes = nodes
            self._series = {node: self._series.get(node) or NodeSeries() for node in nodes}
            self.refresh()

    def set_live(self, live: bool) -> None:
        """Draw only while somebody looks."""
        if live:
            self.refresh()
            self._timer.start()
        else:
            self._timer.stop()

    def set_paused(self, paused: bool) -> None:
        """Freeze what is drawn; samples go on being kept."""
        self.paused = paused
        if not paused:
            self.refresh()

    def set_range(self, seconds: int) -> None:
        self._seconds = seconds
        self.reset()
        self.refresh()

    @Slot()
    def reset(self) -> None:
        """Undo zooming and panning."""
        for plot in self.plots.values():
            plot.reset(self._seconds)

    def refresh(self) -> None:
        """Draw all graphs now."""
        if not self.paused:
            self._now = self._clock()
        for node, series in self._series.items():
            if not self.paused or not series.latest:
                series.update(self._history(node))
        for figure in self._arranged:
            self._draw(figure)

    @Slot()
    def turn(self) -> None:
        """Draw the next graph, and the read-out if the pointer has moved."""
        if not self.paused and self._arranged:
            self._next = (self._next + 1) % len(self._arranged)
            if self._next == 0:
                self._now = self._clock()
                for node, series in self._series.items():
                    series.update(self._history(node))
            self._draw(self._arranged[self._next])
        if self._pointer_moved or (self._pointer is not None and not self.paused):
            self._pointer_moved = False
            self._read()

    def _draw(self, figure: Figure) -> None:
        self.plots[figure].show_series([self._series[node] for node in self._nodes], self._now, self._theme.colors)

    def _arrange(self, *, with_gpu: bool) -> None:
        wanted = tuple(figure for figure in Figure if with_gpu or figure is not Figure.GPU)
        if wanted == self._arranged:
            return
        for figure in self._arranged:
            self._view.removeItem(self.plots[figure].item)
        self._arranged = wanted
        for row, figures in enumerate((wanted[:3], wanted[3:])):
            span = COLUMNS // len(figures)
            for place, figure in enumerate(figures):
                self._view.addItem(self.plots[figure].item, row=row, col=place * span, colspan=span)
        for column in range(COLUMNS):
            self._view.ci.layout.setColumnStretchFactor(column, 1)
            self._view.ci.layout.setColumnPreferredWidth(column, _COLUMN_WIDTH)

    def _on_zoom(self, zoomed: GraphPlot) -> None:
        """All show the same time. pyqtgraph's own links would keep the same scale instead, whatever their widths."""
        left, right = zoomed.item.viewRange()[0]
        for plot in self.plots.values():
            if plot is not zoomed:
                plot.follow(left, right)

    # --- the pointer ---

    @Slot(object)
    def _on_moved(self, at: QPointF) -> None:
        self._pointer = at
        self._pointer_moved = True
        if not self._timer.isActive():
            self._read()

    def eventFilter(self, watched: object, event: QEvent) -> bool:
        if event.type() is QEvent.Type.Leave:
            self._pointer = None
            self._read()
        return False

    def _read(self) -> None:
        over = next(
            (self.plots[f] for f in self._arranged if self._pointer and self.plots[f].shows(self._pointer)), None
        )
        if over is None or self._pointer is None:
            for plot in self.plots.values():
                plot.cross.hide()
            self.read_out.emit(None)
            return
        ago = over.ago_at(self._pointer)
        for plot in self.plots.values():
            plot.cross.setPos(ago)
            plot.cross.show()
        look = LOOKS[over.figure]
        when = "now" if ago > -0.5 else f"{duration(round(-ago))} ago"
        values = tuple(look.text(self._series[node].at(over.figure, self._now + ago)) for node in self._nodes)
        self.read_out.emit((f"{look.title.split(',')[0]}, {when}", values))

    @Slot()
    def _on_theme(self) -> None:
        colors = self._theme.colors
        self._view.setBackground(colors.surface)
        for plot in self.plots.values():
            plot.paint_in(colors)
