"""A request's trips round the ring, laid out for drawing: a lane for each stage, one for the way between them.

Made from a trace and grown while the request runs. Whatever is asked takes no longer for thousands of tokens than for
ten: stretches lie in order in arrays, with sums, so that both a single one and a whole pixel's worth are a bisection.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.figures import micros
from app.runs.trace import ChunkTime, Plan, RequestTrace, TokenTime
from app.runs.waterfall import Bar, bars, node_name

Trip = ChunkTime | TokenTime


def _times() -> array[int]:
    return array("q")


@dataclass
class Track:
    """Stretches of one kind in order of time, none overlapping another. Microseconds."""

    begins: array[int] = field(default_factory=_times)
    ends: array[int] = field(default_factory=_times)
    _before: array[int] = field(default_factory=_times)
    """How much all stretches before each one cover."""

    def add(self, began: int, ended: int) -> None:
        """A stretch after the others; what an earlier one covers already does not count twice."""
        began = max(began, self.ends[-1]) if self.ends else began
        if ended > began:
            self._before.append(self.covered(began))
            self.begins.append(began)
            self.ends.append(ended)

    def covered(self, until: float) -> int:
        """How much of the time before a moment lies in stretches."""
        number = bisect_left(self.begins, until) - 1
        if number < 0:
            return 0
        return self._before[number] + int(min(until, self.ends[number])) - self.begins[number]

    def within(self, began: float, ended: float) -> range:
        """Numbers of the stretches that are to be seen there."""
        return range(bisect_right(self.ends, began), bisect_left(self.begins, ended))


@dataclass
class Lane:
    """What one stage did, or the way between the stages (`stage` None), where all is `busy`."""

    stage: int | None
    name: str
    busy: Track = field(default_factory=Track)
    waiting: Track = field(default_factory=Track)


@dataclass(frozen=True)
class Growth:
    """What has come since the last time of a request that is under way."""

    first_step_us: int
    chunks: tuple[ChunkTime, ...] = ()
    tokens: tuple[TokenTime, ...] = ()
    plan: Plan | None = None


class Timeline:
    """The stretches of one request, for drawing. Belongs to one thread."""

    def __init__(self) -> None:
        self.prepare_us = 0
        self.lanes: list[Lane] = []
        """One for each stage in order, then the way between them."""
        self.begins, self.ends = _times(), _times()
        """Of each trip, in order of their ends."""
        self.trips: list[Trip] = []
        self.chunks = 0
        """How many of the trips are chunks of the prompt; they come first."""
        self.plan: Plan | None = None

    @classmethod
    def of(cls, trace: RequestTrace) -> Timeline:
        made = cls()
        made.grow(Growth(trace.first_step_us, trace.chunks, trace.tokens, trace.plan))
        return made

    @property
    def tokens(self) -> int:
        return len(self.trips) - self.chunks

    @property
    def is_empty(self) -> bool:
        return not self.trips

    @property
    def end_us(self) -> int:
        return self.ends[-1] if self.ends else self.prepare_us

    def grow(self, more: Growth) -> None:
        """Take what has come. Chunks of the prompt come before all tokens."""
        self.prepare_us = more.first_step_us
        if more.plan is not None:
            self.plan = more.plan
        trips: tuple[Trip, ...] = (*more.chunks, *more.tokens)
        self._make_lanes(max((len(trip.stages) for trip in trips), default=0))
        if more.chunks or not self.tokens:
            self._add(bars(RequestTrace(first_step_us=more.first_step_us, chunks=more.chunks, tokens=more.tokens)))
        elif more.tokens:
            # The last one that is known stands before them, for the first token of a trace is laid out differently.
            before = self.trips[-1]
            assert isinstance(before, TokenTime)
            trace = RequestTrace(first_step_us=more.first_step_us, tokens=(before, *more.tokens))
            self._add(bars(trace)[1:])
        self.chunks += len(more.chunks)
        self.trips += trips

    def _make_lanes(self, stages: int) -> None:
        planned = 0 if self.plan is None else len(self.plan.stages)
        if self.lanes and len(self.lanes) > max(stages, planned):
            return
        known = self.lanes[:-1]
        wire = self.lanes[-1] if self.lanes else Lane(None, "On the way")
        fresh = [Lane(stage, f"{stage + 1} · {node_name(self.plan, stage)}")
                 for stage in range(len(known), max(stages, planned))]  # fmt: skip
        self.lanes = [*known, *fresh, wire]

    def _add(self, added: Sequence[Bar]) -> None:
        for bar in added:
            self.begins.append(bar.began_us)
            self.ends.append(bar.ended_us)
            for segment in bar.segments:
                lane = self.lanes[-1 if segment.stage is None else segment.stage]
                (lane.waiting if segment.kind == "queue" else lane.busy).add(segment.began_us, segment.ended_us)

    # --- what is asked ---

    def trip_at(self, moment: float) -> int | None:
        """The trip under way at a moment; None before the first and after the last."""
        number = bisect_left(self.ends, moment)
        if number >= len(self.ends) or moment < self.begins[number]:
            return None
        return number

    def within(self, began: float, ended: float) -> range:
        """Trips that are to be seen there. Chunks may overlap: one more is taken at each side."""
        first, last = bisect_right(self.ends, began), bisect_left(self.ends, ended)
        return range(max(0, first - 1), min(len(self.ends), last + 2))

    def name(self, trip: int) -> str:
        """Token 17 of the answer, or how far the prompt was."""
        found = self.trips[trip]
        if isinstance(found, ChunkTime):
            return f"Prompt, to token {found.done:,}"
        return f"Token {trip - self.chunks + 1:,}"

    def words(self, trip: int) -> tuple[str, ...]:
        """A trip in figures: when, how long, and on each stage."""
        found = self.trips[trip]
        began, ended = self.begins[trip], self.ends[trip]
        lines = [f"{self.name(trip)}: {micros(ended - began)}, at {micros(ended)}"]
        measured = 0
        for lane, share in zip(self.lanes, found.stages, strict=False):
            waited = f", waited {micros(share.queue_us)}" if share.queue_us else ""
            lines.append(f"{lane.name}: computed {micros(share.compute_us)}{waited}")
            measured += share.compute_us + share.queue_us
        if found.stages:
            lines.append(f"On the way: {micros(max(0, ended - began - measured))}")
        if isinstance(found, TokenTime) and found.batch > 1:
            lines.append(f"With {found.batch - 1} other{'s' if found.batch > 2 else ''} in the same step")
        return tuple(lines)
