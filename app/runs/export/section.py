"""What a report says of one run: its telling, with charts of its times. All of it is text that is not escaped yet."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from app.figures import layers, micros, utc
from app.runs.export.charts import Chart, columns, phase_chart, phase_names, speed, waterfall
from app.runs.run import Run, RunEvent
from app.runs.telling import (
    ON_THE_WAY,
    WAITING,
    Telling,
    TimeShare,
    computing_on,
    stage_name,
    tell,
    times_of,
)
from app.runs.trace import DeploymentTrace, JobTrace, Phase, Plan
from app.runs.waterfall import Shares, shares

MOST_EVENTS = 1_000

TONES = {
    "completed": "good", "ready": "good", "done": "good",
    "failed": "bad",
    "cancelled": "dim", "unloaded": "dim",
}  # fmt: skip

Charts = tuple[tuple[str, str, Chart], ...]
"""Title, what it shows, and the chart."""
Legend = tuple[tuple[str, str], ...]
"""Name and look: a class of the style sheet."""


class StageLine(Struct, frozen=True, kw_only=True):
    """A stage in the plan's picture; shares are of the time of the answer."""

    number: int
    name: str
    layers: str
    count: int
    compute: str = ""
    queue: str = ""
    compute_share: float = 0.0
    queue_share: float = 0.0


class ReportSection(Struct, frozen=True, kw_only=True):
    """One run. What is empty is left out."""

    anchor: str
    told: Telling
    tone: str
    when: str
    took: str
    bar: tuple[TimeShare, ...] = ()
    """`kind` is a look."""
    charts: Charts = ()
    legend: Legend = ()
    stages: tuple[StageLine, ...] = ()
    events: tuple[RunEvent, ...] = ()
    left_out: str = ""


def section_of(run: Run, number: int) -> ReportSection:
    """What to say of a run, the `number`th of its report."""
    trace, request = run.trace, run.request_trace
    told = tell(run)
    found = shares(request) if request is not None and (request.tokens or request.chunks) else None
    charts: list[tuple[str, str, Chart | None]] = []
    legend: Legend = ()
    if request is not None and found is not None:
        charts = [
            ("Waterfall", "Where each token was when, from the moment the request was asked for.", waterfall(request)),
            ("Each token", "How long each token took after the one before it, and what for.", columns(request)),
            ("Speed", "Tokens per second while the answer came.", speed(request)),
        ]
        legend = (*((computing_on(found, k), f"s{k % 8}") for k in range(len(found.stages))), (WAITING, "queue"))
        legend += ((ON_THE_WAY, "wire"),)
    elif isinstance(trace, DeploymentTrace | JobTrace):
        charts = [("Phases", "What was done where, and when.", phase_chart(trace.phases, trace.took_us or _took(run)))]
        legend = _phase_legend(trace.phases)
    return ReportSection(
        anchor=f"run-{number}",
        told=told,
        tone=TONES.get(run.status, "busy"),
        when=utc(run.created_at),
        took=next(str(value) for name, value in told.figures if name == "Time"),
        bar=told.times if found is None or request is None or not request.tokens else times_of(found, by_stage=True),
        charts=tuple((title, what, chart) for title, what, chart in charts if chart is not None),
        legend=legend,
        stages=_stages(run.plan, found),
        events=run.events[:MOST_EVENTS],
        left_out=f"{len(run.events) - MOST_EVENTS:,} more are left out." if len(run.events) > MOST_EVENTS else "",
    )


def _phase_legend(phases: Sequence[Phase]) -> Legend:
    """How long each kind of phase took, on the nodes where it was quickest and slowest."""
    lines = []
    for number, name in enumerate(phase_names(phases)):
        times = sorted(max(0, phase.ended_us - phase.began_us) for phase in phases if phase.name == name)
        shown = list(dict.fromkeys((micros(times[0]), micros(times[-1]))))
        lines.append((f"{name}: {' to '.join(shown)}", f"s{number % 8}"))
    return tuple(lines)


def _stages(plan: Plan | None, found: Shares | None) -> tuple[StageLine, ...]:
    lines = []
    for number, stage in enumerate(() if plan is None else plan.stages):
        name, held = stage_name(stage), layers(stage.start, stage.end)
        line = StageLine(number=stage.stage, name=name, layers=held, count=stage.end - stage.start)
        if found is not None and number < len(found.stages) and found.decode_us > 0:
            totals, trips = found.stages[number], max(1, found.tokens - 1)
            line = StageLine(
                number=line.number, name=name, layers=held, count=line.count,
                compute=micros(totals.compute_us / trips), queue=micros(totals.queue_us / trips),
                compute_share=min(1.0, totals.compute_us / found.decode_us),
                queue_share=min(1.0, totals.queue_us / found.decode_us),
            )  # fmt: skip
        lines.append(line)
    return tuple(lines)


def _took(run: Run) -> int:
    """Microseconds."""
    ended = run.completed_at or run.created_at
    return round((ended - run.created_at).total_seconds() * 1e6)
