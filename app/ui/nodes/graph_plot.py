"""One graph: a figure of several nodes over the last minutes, with a fixed or a slowly growing scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFont, QPen

from app.ui.nodes.graph_series import Figure, NodeSeries
from app.ui.theme import Colors

MOST_CURVES = 8
_LABEL_ROOM = 12.0
_MARGIN = 0.02
"""Around the scale, so that lines at its ends, and the labels there, are seen whole."""


@dataclass(frozen=True)
class GraphLook:
    """What a graph is called and how its values are written."""

    title: str
    unit: str
    decimals: int
    top: float | None
    """Of the scale; None where it follows the values."""

    def text(self, value: float | None) -> str:
        return "–" if value is None else f"{value:.{self.decimals}f}{self.unit}"


LOOKS: dict[Figure, GraphLook] = {
    Figure.CPU: GraphLook("CPU, %", " %", 0, 100.0),
    Figure.MEMORY: GraphLook("Memory in use, GB", " GB", 1, None),
    Figure.GPU: GraphLook("GPU, %", " %", 0, 100.0),
    Figure.TOKENS: GraphLook("Tokens/s", " tokens/s", 1, None),
    Figure.STEP: GraphLook("Step time, ms", " ms", 1, None),
    Figure.ROUND_TRIP: GraphLook("Round trip, ms", " ms", 2, None),
}


class _AgoAxis(pg.AxisItem):  # type: ignore[misc]  # pyqtgraph has no types
    """Seconds before now, as people say them."""

    def tickValues(self, minVal: float, maxVal: float, size: float) -> list[tuple[float, list[float]]]:
        span = max(1.0, maxVal - minVal)
        step = next((each for each in (10, 15, 30, 60, 120, 300) if span / each <= 5.5), 600)
        first = math.ceil(minVal / step) * step
        return [(float(step), [float(at) for at in range(int(first), int(maxVal) + 1, step)])]

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        return ["now" if abs(v) < 0.5 else f"{v / 60:.0f} min" if v % 60 == 0 else f"{v:.0f} s" for v in values]


class _ScaleAxis(pg.AxisItem):  # type: ignore[misc]
    """Has room for the labels at its ends, which pyqtgraph leaves out where there is a grid."""

    def boundingRect(self) -> QRectF:
        rect: QRectF = super().boundingRect()
        return rect.adjusted(0, -_LABEL_ROOM, 0, _LABEL_ROOM)


class GraphPlot:
    """A PlotItem with its curves. The x axis is in seconds before now, so that it stands still."""

    def __init__(self, figure: Figure, font: QFont) -> None:
        self.figure = figure
        self.look = LOOKS[figure]
        self._font = font
        self._top = 0.0
        self._zoomed = False
        self.on_zoom: Callable[[GraphPlot], None] | None = None
        self.item: Any = pg.PlotItem(axisItems={"bottom": _AgoAxis("bottom"), "left": _ScaleAxis("left")})
        self.item.hideButtons()
        self.item.setMenuEnabled(False)
        self.item.setClipToView(False)
        box = self.item.getViewBox()
        box.disableAutoRange()
        box.setDefaultPadding(0.0)
        box.sigRangeChangedManually.connect(self._on_zoom)
        for name in ("left", "bottom"):
            axis = self.item.getAxis(name)
            axis.setStyle(tickFont=font, tickLength=0, tickTextOffset=6)
            axis.setStyle(autoExpandTextSpace=False, hideOverlappingLabels=False)
            axis.enableAutoSIPrefix(False)
        self.item.getAxis("left").setWidth(44)
        self.item.showGrid(x=False, y=True, alpha=0.16)
        self.cross = pg.InfiniteLine(angle=90, movable=False)
        self.cross.hide()
        self.item.addItem(self.cross, ignoreBounds=True)
        self._curves: list[Any] = []
        self._set_top(self.look.top or 1.0)

    def paint_in(self, colors: Colors) -> None:
        self.item.setTitle(
            self.look.title, color=colors.text.name(), size=f"{self._font.pointSizeF():.1f}pt", justify="left"
        )
        self.item.titleLabel.setMaximumHeight(24)
        for name in ("left", "bottom"):
            axis = self.item.getAxis(name)
            axis.setPen(pg.mkPen(colors.border))
            axis.setTextPen(pg.mkPen(colors.muted))
        self.cross.setPen(pg.mkPen(colors.muted, width=1, style=Qt.PenStyle.DashLine))
        for number, curve in enumerate(self._curves):
            curve.setPen(_pen(colors, number))

    def show_series(self, series: list[NodeSeries], now: float, colors: Colors) -> None:
        """Draw one curve for each; colours in their order."""
        while len(self._curves) < len(series):
            curve = pg.PlotCurveItem(pen=_pen(colors, len(self._curves)), antialias=False)
            curve.setSegmentedLineMode("on")
            self._curves.append(curve)
            self.item.addItem(curve, ignoreBounds=True)
        while len(self._curves) > len(series):
            self.item.removeItem(self._curves.pop())
        highest = 0.0
        left = self.item.viewRange()[0][0]
        for curve, each in zip(self._curves, series, strict=True):
            x, y = each.times() - now, each.values(self.figure)
            whole = not np.isnan(y).any()
            curve.setData(x, y, connect="all" if whole else "finite", skipFiniteCheck=whole)
            seen = y[x >= left]
            if len(seen) and not np.isnan(seen).all():
                highest = max(highest, float(np.nanmax(seen)))
        if self.look.top is None and not self._zoomed:
            self._set_top(_ceiling(highest))

    def reset(self, seconds: int) -> None:
        """The last so many seconds, and the whole scale."""
        self._zoomed = False
        self._mark()
        self.item.setXRange(-seconds * (1 + _MARGIN), seconds * _MARGIN, padding=0)
        self._scale()

    def shows(self, at: QPointF) -> bool:
        """Whether a point of the scene lies on the drawing."""
        return bool(self.item.isVisible() and self.item.getViewBox().sceneBoundingRect().contains(at))

    def ago_at(self, at: QPointF) -> float:
        """Seconds before now (negative) under a point of the scene."""
        return float(self.item.getViewBox().mapSceneToView(at).x())

    def follow(self, left: float, right: float) -> None:
        """Show the same time as another graph, which the user has zoomed."""
        self.item.setXRange(left, right, padding=0)

    def _on_zoom(self) -> None:
        self._zoomed = True
        self.item.getAxis("left").setTicks(None)
        if self.on_zoom is not None:
            self.on_zoom(self)

    def _scale(self) -> None:
        self.item.setYRange(-self._top * _MARGIN, self._top * (1 + _MARGIN), padding=0)

    def _set_top(self, top: float) -> None:
        if top != self._top:
            self._top = top
            self._scale()
            self._mark()

    def _mark(self) -> None:
        """Three marks; zoomed graphs get as many as pyqtgraph finds right."""
        marks = [(at, f"{at:g}") for at in (0, self._top / 2, self._top)]
        self.item.getAxis("left").setTicks([marks])


def _pen(colors: Colors, number: int) -> QPen:
    """One pixel wide whatever the zoom: wider ones cost six times as much."""
    pen: QPen = pg.mkPen(colors.of(number), width=1)
    return pen


def _ceiling(value: float) -> float:
    """The next of 1, 2, 4, 6, 8, 10 times a power of ten, so that the scale seldom changes."""
    if value <= 0:
        return 1.0
    power = float(10 ** math.floor(math.log10(value)))
    return next((step * power for step in (1, 2, 4, 6, 8) if value <= step * power), 10 * power)
