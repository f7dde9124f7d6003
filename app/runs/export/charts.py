"""The geometry of a report's charts: numbers in, shapes out. What they look like is the style sheet's affair.

A chart is drawn into a box of WIDTH by HEIGHT that is stretched over the room there is; words stand beside it as HTML,
in percent, so that they keep their size. Many bars of one colour are one path, and beyond a limit neighbours are drawn
as one bar, so that a report of a long answer stays small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import median

from msgspec import Struct

from app.figures import micros, token_rate
from app.runs.export.axes import Tick, duration_axis, round_marks, round_step, time_ticks, token_ticks
from app.runs.trace import Phase, RequestTrace, TokenTime
from app.runs.waterfall import Bar, bars

WIDTH = 1000
HEIGHT = 1000
MOST_ROWS = 32
"""Of tokens in a waterfall, besides a few of the prompt."""
MOST_PROMPT_ROWS = 8
MOST_COLUMNS = 160
MOST_POINTS = 60
ROW_PIXELS = 15
GAP = 0.16
"""Of a row's or column's room that stays free."""
OUTLIER = 4
"""A token that took so many times as long as the usual ones is cut off: it would press all others flat."""
FEWEST_POINTS = 3


class Shape(Struct, frozen=True):
    """Everything of one colour. `look` is a class of the style sheet."""

    look: str
    path: str


class Spot(Struct, frozen=True):
    """A rectangle that tells its figures under the pointer."""

    x: float
    y: float
    width: float
    height: float
    title: str


class Chart(Struct, frozen=True, kw_only=True):
    label: str
    """Said in place of the picture."""
    pixels: int
    """How high it is."""
    shapes: tuple[Shape, ...]
    spots: tuple[Spot, ...] = ()
    across: tuple[Tick, ...] = ()
    up: tuple[Tick, ...] = ()
    """From the bottom; names of rows from the top where `rows` says so."""
    rows: bool = False
    remark: str = ""


class _Paths:
    """Gathers rectangles by colour, in the order in which colours first came."""

    def __init__(self) -> None:
        self._parts: dict[str, list[str]] = {}

    def add(self, look: str, x: float, y: float, width: float, height: float) -> None:
        if width > 0 and height > 0:
            drawn = f"M{_short(x)} {_short(y)}h{_short(width)}v{_short(height)}h-{_short(width)}z"
            self._parts.setdefault(look, []).append(drawn)

    def shapes(self) -> tuple[Shape, ...]:
        return tuple(Shape(look, "".join(parts)) for look, parts in self._parts.items())


def look_of(kind: str, stage: int | None) -> str:
    """The class of a segment's colour."""
    return f"s{stage % 8}" if kind == "compute" and stage is not None else kind


def waterfall(trace: RequestTrace) -> Chart | None:
    """Rows from top to bottom, time from left to right: each trip where it was. None where nothing was recorded."""
    trips = bars(trace)
    prompt = [trip for trip in trips if trip.token is None]
    answer = [trip for trip in trips if trip.token]
    rows = [
        *_grouped(prompt, MOST_PROMPT_ROWS),
        *([trip] for trip in trips if trip.token == 0),
        *_grouped(answer, MOST_ROWS),
    ]
    if not rows:
        return None
    end = max(trip.ended_us for trip in trips)
    paths, spots, names = _Paths(), [], []
    pitch = HEIGHT / len(rows)
    for number, row in enumerate(rows):
        began, ended = row[0].began_us, row[-1].ended_us
        top = (number + GAP / 2) * pitch
        x = began / end * WIDTH if end else 0.0
        left, width = x, (ended - began) / end * WIDTH if end else 0.0
        totals = _totals(row)
        whole = sum(us for *_, us in totals) or 1
        for kind, stage, us in totals:
            paths.add(look_of(kind, stage), x, top, width * us / whole, pitch * (1 - GAP))
            x += width * us / whole
        name = _row_name(row)
        names.append(Tick((number + 0.5) * 100 / len(rows), name))
        spots.append(_spot(left, number * pitch, max(width, 4), pitch, f"{name}: {micros(ended - began)}", totals))
    remark = "" if len(rows) == len(trips) else "Tokens that follow each other share a row, with their parts added up."
    return Chart(
        label=f"Waterfall of {len(trips)} steps over {micros(end)}",
        pixels=ROW_PIXELS * len(rows) + 4,
        shapes=paths.shapes(),
        spots=tuple(spots),
        across=time_ticks(end),
        up=tuple(names),
        rows=True,
        remark=remark,
    )


def columns(trace: RequestTrace) -> Chart | None:
    """A column for each token after the first, as high as it took, with what it took it for from the bottom up."""
    answer = [trip for trip in bars(trace) if trip.token]
    if len(answer) < FEWEST_POINTS:
        return None
    groups = _grouped(answer, MOST_COLUMNS)
    heights = [sum(trip.took_us for trip in group) / len(group) for group in groups]
    peaks = [max(trip.took_us for trip in group) for group in groups]
    usual, top = median(heights), max(peaks)
    limit = top if top <= OUTLIER * usual or usual == 0 else OUTLIER * usual
    scale, ticks = duration_axis(limit)
    paths, spots = _Paths(), []
    pitch = WIDTH / len(groups)
    for number, (group, height, peak) in enumerate(zip(groups, heights, peaks, strict=True)):
        x, width = (number + GAP / 2) * pitch, pitch * (1 - GAP)
        if len(group) > 1:
            tall = min(HEIGHT, peak / scale * HEIGHT)
            paths.add("peak", x, HEIGHT - tall, width, tall)
        y = float(HEIGHT)
        totals = _totals(group)
        for kind, stage, us in totals:
            tall = min(us / len(group) / scale * HEIGHT, y)
            y -= tall
            paths.add(look_of(kind, stage), x, y, width, tall)
        if height > scale:
            paths.add("cut", x, 0, width, HEIGHT / 50)
        slowest = f", at most {micros(peak)}" if len(group) > 1 else ""
        title = f"{_row_name(group)}: {micros(height)}{' each' if len(group) > 1 else ''}{slowest}"
        spots.append(_spot(number * pitch, 0, pitch, HEIGHT, title, totals, len(group)))
    remarks = []
    if len(groups) < len(answer):
        remarks.append(f"A column is the mean of {len(groups[0])} tokens; the pale part reaches to the slowest.")
    if top > scale:
        remarks.append(f"The slowest took {micros(top)}, more than fits here.")
    first, last = answer[0].token or 0, answer[-1].token or 0
    return Chart(
        label=f"How long each of {len(answer)} tokens took",
        pixels=200,
        shapes=paths.shapes(),
        spots=tuple(spots),
        across=token_ticks(first + 1, last + 1),
        up=ticks,
        remark=" ".join(remarks),
    )


def speed(trace: RequestTrace) -> Chart | None:
    """Tokens per second over the time of the answer, a point for a few tokens each."""
    times = trace.tokens[1:]
    size = max(2, math.ceil(len(times) / MOST_POINTS))
    groups = [times[start : start + size] for start in range(0, len(times) - size + 1, size)]
    points = [(_middle(group), len(group) / took * 1e6) for group in groups if (took := _took(group)) > 0]
    if len(points) < FEWEST_POINTS:
        return None
    began, ended = trace.tokens[0].at_us, trace.tokens[-1].at_us
    mean = len(times) / (ended - began) * 1e6 if ended > began else 0.0
    fastest = max(each for _, each in points)
    step = round_step(fastest / 4)
    top = step * math.ceil(fastest / step)
    marks = [number * step for number in range(round(top / step) + 1)]
    # From edge to edge: the speed before the first point and after the last one is theirs.
    places = [(began, points[0][1]), *points, (ended, points[-1][1])]
    drawn = [((at - began) / (ended - began) * WIDTH, HEIGHT - each / top * HEIGHT) for at, each in places]
    line = "".join(f"{'L' if number else 'M'}{_short(x)} {_short(y)}" for number, (x, y) in enumerate(drawn))
    level = HEIGHT - mean / top * HEIGHT
    pitch = WIDTH / len(points)
    return Chart(
        label=f"Tokens per second over {micros(ended - began)}: {token_rate(mean)} on average",
        pixels=140,
        shapes=(
            Shape("area", f"{line}V{HEIGHT}H0z"),
            Shape("line", line),
            Shape("mean", f"M0 {_short(level)}H{WIDTH}"),
        ),
        spots=tuple(
            Spot(number * pitch, 0, pitch, HEIGHT, f"{micros(at)} after it was asked: {token_rate(each)}")
            for number, (at, each) in enumerate(points)
        ),
        across=tuple(Tick((t - began) * 100 / (ended - began), micros(t)) for t in round_marks(began, ended)),
        up=tuple(Tick(mark * 100 / top, f"{mark:g}") for mark in marks),
        remark=f"The dashed line is the mean, {token_rate(mean)}.",
    )


def phase_chart(phases: Sequence[Phase], took_us: int) -> Chart | None:
    """A row for each node, and one for what has no node; its phases one after another. Colours go by name."""
    end = max([took_us, *(phase.ended_us for phase in phases)])
    if not phases or end <= 0:
        return None
    names = phase_names(phases)
    order = sorted(phases, key=lambda phase: (phase.node_id or 0, phase.node))
    rows = [list(group) for _, group in groupby(order, key=lambda phase: (phase.node_id, phase.node))]
    paths, spots, labels = _Paths(), [], []
    pitch = HEIGHT / len(rows)
    for number, row in enumerate(rows):
        top = (number + GAP / 2) * pitch
        for phase in row:
            x, width = phase.began_us / end * WIDTH, (phase.ended_us - phase.began_us) / end * WIDTH
            paths.add(f"s{names.index(phase.name) % 8}", x, top, max(width, 2), pitch * (1 - GAP))
            title = f"{phase.name}: {micros(phase.ended_us - phase.began_us)}"
            spots.append(Spot(round(x, 1), round(top, 1), round(max(width, 4), 1), round(pitch, 1), title))
        labels.append(Tick((number + 0.5) * 100 / len(rows), row[0].node or "controller"))
    return Chart(
        label=f"{len(phases)} phases over {micros(end)}",
        pixels=26 * len(rows),
        shapes=paths.shapes(),
        spots=tuple(spots),
        across=time_ticks(end),
        up=tuple(labels),
        rows=True,
    )


def phase_names(phases: Iterable[Phase]) -> list[str]:
    """Each once, in the order in which they began."""
    return list(dict.fromkeys(phase.name for phase in sorted(phases, key=lambda phase: phase.began_us)))


# --- parts ---------------------------------------------------------------------------------------------


def _grouped(trips: Sequence[Bar], most: int) -> list[list[Bar]]:
    """Neighbours together, so that there are no more groups than `most`; all but the last of one size."""
    size = max(1, math.ceil(len(trips) / most))
    return [list(trips[start : start + size]) for start in range(0, len(trips), size)]


def _totals(row: Sequence[Bar]) -> list[tuple[str, int | None, int]]:
    """What the segments of a few trips come to, in the order in which the first trip has them, the wire last."""
    found: dict[tuple[str, int | None], int] = {}
    for trip in row:
        for segment in trip.segments:
            key = (segment.kind, segment.stage)
            found[key] = found.get(key, 0) + segment.took_us
    if len(row) == 1:
        return [(segment.kind, segment.stage, segment.took_us) for segment in row[0].segments]
    order = sorted(found, key=lambda key: (key[0] == "wire", key[1] or 0, key[0] == "compute"))
    return [(*key, found[key]) for key in order]


def _spot(
    x: float,
    y: float,
    width: float,
    height: float,
    title: str,
    totals: Sequence[tuple[str, int | None, int]],
    count: int = 1,
) -> Spot:
    sums: dict[str, int] = {}
    for kind, stage, us in totals:
        name = "wire" if stage is None else f"stage {stage + 1} {'waited' if kind == 'queue' else 'computed'}"
        sums[name] = sums.get(name, 0) + us
    told = ", ".join(f"{name} {micros(us / count)}" for name, us in sums.items() if us)
    return Spot(round(x, 1), round(y, 1), round(width, 1), round(height, 1), f"{title}\n{told}" if told else title)


def _row_name(row: Sequence[Bar]) -> str:
    first, last = row[0].token, row[-1].token
    if first is None or last is None:
        return "Prompt"
    return f"Token {first + 1}" if first == last else f"{first + 1}–{last + 1}"


def _took(times: Sequence[TokenTime]) -> int:
    return sum(time.took_us for time in times)


def _middle(times: Sequence[TokenTime]) -> int:
    return (times[0].at_us - times[0].took_us + times[-1].at_us) // 2


def _short(value: float) -> str:
    """As few digits as a screen can show."""
    return f"{value:.1f}".removesuffix(".0")
