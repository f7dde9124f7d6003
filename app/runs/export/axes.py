"""Round marks on the axes of charts."""

from __future__ import annotations

import math

from msgspec import Struct

from app.figures import micros


class Tick(Struct, frozen=True):
    """A mark on an axis, in percent from its beginning."""

    at: float
    label: str


def time_ticks(end: int) -> tuple[Tick, ...]:
    return (
        tuple(Tick(mark * 100 / end, micros(mark) if mark else "0") for mark in round_marks(0, end)) if end > 0 else ()
    )


def duration_axis(limit: float) -> tuple[float, tuple[Tick, ...]]:
    """Where a time axis ends so that its marks are round, and the marks."""
    step = round_step(limit / 4) if limit > 0 else 1.0
    count = math.ceil(limit / step) if limit > 0 else 1
    return step * count, tuple(
        Tick(number * 100 / count, micros(number * step) if number else "0") for number in range(count + 1)
    )


def round_marks(began: int, ended: int) -> list[int]:
    """Round moments between two, five or so."""
    step = max(1, round(round_step((ended - began) / 5)))
    return list(range(math.ceil(began / step) * step, ended + 1, step))


def token_ticks(first: int, last: int) -> tuple[Tick, ...]:
    step = max(1, round(round_step((last - first + 1) / 6)))
    marks = [first, *range(math.ceil((first + 1) / step) * step, last + 1, step)]
    if len(marks) > 1 and marks[1] - first < step / 2:
        marks.pop(1)
    return tuple(Tick((mark - first + 0.5) * 100 / (last - first + 1), f"{mark:,}") for mark in marks)


def round_step(value: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * 0.999)
