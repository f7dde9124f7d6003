"""The ways of the arrows: from block to block through the room between the cards, so that they cross no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from PySide6.QtCore import QPointF

from app.ui.board.scene.layout import Grid

FIRST_LANE = 12.0
LANE_STEP = 7.0
LANES = 5
COLUMN_OFFSETS = (0.0, 6.0, -6.0, 12.0, -12.0)


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
