"""Ten minutes of a node's figures as arrays, brought up to date by what is new, with gaps where it was away."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from app.ui.cluster import HISTORY, Sample

GAP_SECONDS = 3.5
"""Without a sample for longer than the beats that a node may miss, the line breaks."""
Array = npt.NDArray[np.float64]


class Figure(IntEnum):
    CPU = 0
    MEMORY = 1
    GPU = 2
    TOKENS = 3
    STEP = 4
    ROUND_TRIP = 5


_BYTES_IN_GB = 1e9
_ROWS = len(Figure) + 1  # the last row is the time
_CAPACITY = 2 * HISTORY


class NodeSeries:
    """One node's curves. Memory is in GB, step and round trip in ms, load in percent."""

    def __init__(self) -> None:
        self._values: Array = np.full((_ROWS, _CAPACITY), np.nan)
        self._count = 0

    @property
    def latest(self) -> float:
        """time.time() of the newest sample; 0 without one."""
        return float(self._values[-1, self._count - 1]) if self._count else 0.0

    def update(self, history: Sequence[Sample]) -> None:
        """Append what is newer than the last time."""
        known = self.latest
        new = []
        for sample in reversed(history):
            if sample.at <= known:
                break
            new.append(sample)
        for sample in reversed(new):
            if self._count and sample.at - self.latest > GAP_SECONDS:
                self._append((np.nan,) * len(Figure), (self.latest + sample.at) / 2)
            memory = sample.memory / _BYTES_IN_GB if sample.memory is not None else None
            figures = (
                sample.cpu, memory, sample.gpu, sample.tokens_per_second, sample.step_ms, sample.rtt_ms
            )  # fmt: skip
            self._append(tuple(np.nan if figure is None else figure for figure in figures), sample.at)

    def times(self) -> Array:
        """time.time() of each point."""
        return self._values[-1, : self._count]

    def values(self, figure: Figure) -> Array:
        return self._values[figure, : self._count]

    def at(self, figure: Figure, moment: float) -> float | None:
        """The value nearest to a moment; None where there is none within the gap's length."""
        times = self.times()
        if not len(times):
            return None
        place = int(np.searchsorted(times, moment))
        near = min((i for i in (place - 1, place) if 0 <= i < len(times)), key=lambda i: abs(float(times[i]) - moment))
        value = float(self._values[figure, near])
        return None if np.isnan(value) or abs(float(times[near]) - moment) > GAP_SECONDS else value

    def _append(self, figures: tuple[float, ...], at: float) -> None:
        if self._count == _CAPACITY:  # half is kept: ten minutes, and this happens once in ten
            self._values[:, :HISTORY] = self._values[:, _CAPACITY - HISTORY :]
            self._count = HISTORY
        self._values[:-1, self._count] = figures
        self._values[-1, self._count] = at
        self._count += 1
