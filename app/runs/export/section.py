"""What a report says of one run: titles, figures, tables and charts, all of them text that is not escaped yet."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from app.figures import layers, micros, percent, size_text, token_rate
from app.runs.bottleneck import Bottleneck, explain
from app.runs.export.charts import Chart, columns, phase_chart, phase_names, speed, waterfall
from app.runs.export.facts import (
    Facts,
    Table,
    memory_table,
    moment,
    node_table,
    origin_text,
    overview_facts,
    software_facts,
    value_text,
)
from app.runs.run import Run, RunEvent
from app.runs.trace import DeploymentTrace, JobTrace, NodeFacts, NodeMemory, Phase, Plan, RequestTrace
from app.runs.waterfall import Shares, shares
from app.runs.ways import way_lines

LONGEST_TEXT = 200_000
"""Characters of a prompt or an answer; what is longer is in the other formats."""
MOST_EVENTS = 1_000

TONES = {
    "completed": "good", "ready": "good", "done": "good",
    "failed": "bad",
    "cancelled": "dim", "unloaded": "dim",
}  # fmt: skip


class Slice(Struct, frozen=True):
    """A part of a bar. `look` is a class of the style sheet."""

    name: str
    look: str
    us: int
    share: float

    @property
    def words(self) -> str:
        return f"{micros(self.us)}, {percent(self.share)}"


class StageLine(Struct, frozen=True, kw_only=True):
    """A stage in the plan; shares are of the time of the answer."""

    number: int
    node: str
    layers: str
    count: int
    weights: str
    kv: str
    ways: tuple[tuple[str, str], ...] = ()
    """(title, text) of how it ran."""
    compute: str = ""
    queue: str = ""
    compute_share: float = 0.0
    queue_share: float = 0.0


class Section(Struct, frozen=True, kw_only=True):
    """One run. What is empty is left out."""

    anchor: str
    title: str
    subtitle: str
    status: str
    tone: str
    when: str
    took: str
    error: str
    origin: str
    cards: Facts
    reason: Bottleneck | None = None
    bar: tuple[Slice, ...] = ()
    charts: tuple[tuple[str, str, Chart], ...] = ()
    """Title, what it shows, and the chart."""
    legend: tuple[tuple[str, str], ...] = ()
    """Of the charts: name and look."""
    plan: Plan | None = None
    stages: tuple[StageLine, ...] = ()
    texts: tuple[tuple[str, str, str], ...] = ()
    """Title, text, and what to say of it."""
    facts: tuple[tuple[str, Facts], ...] = ()
    nodes: Table | None = None
    memory: Table | None = None
    events: tuple[RunEvent, ...] = ()
    left_out: str = ""


def section_of(run: Run, number: int) -> Section:
    """What to say of a run, the `number`th of its report."""
    trace = run.trace
    took = _took(run)
    common = Section(
        anchor=f"run-{number}",
        title=f"{run.kind.capitalize()} {run.id}" if run.job is None else run.job.title,
        subtitle=run.model or "",
        status=run.status,
        tone=TONES.get(run.status, "busy"),
        when=moment(run.created_at),
        took="–" if took is None else micros(took),
        error=run.error or "",
        origin=origin_text(run),
        cards=(),
        plan=run.plan,
        stages=_stages(run.plan, None),
        events=run.events[:MOST_EVENTS],
        left_out=f"{len(run.events) - MOST_EVENTS:,} more are left out." if len(run.events) > MOST_EVENTS else "",
    )
    if run.kind == "request":
        return _request(common, run, run.request_trace or RequestTrace())
    if isinstance(trace, DeploymentTrace | JobTrace):
        return _phased(common, run, trace, took)
    return replace(common, cards=(("Time", common.took),), facts=(("Run", overview_facts(run)),))


# --- requests ------------------------------------------------------------------------------------------


def _request(common: Section, run: Run, trace: RequestTrace) -> Section:
    found = shares(trace)
    request = run.request
    cards = [("Time", common.took)]
    texts: list[tuple[str, str, str]] = []
    facts = [("Request", overview_facts(run))]
    tokens = len(trace.tokens)
    if trace.tokens:
        cards.append(("First token after", micros(trace.tokens[0].at_us)))
    if tokens > 1 and found.decode_us > 0:
        cards.append(("Speed", token_rate((tokens - 1) / found.decode_us * 1e6)))
        cards.append(("Each token", micros(found.decode_us / (tokens - 1))))
    if request is not None:
        cards.append(("Prompt", f"{request.prompt_tokens:,} tokens"))
        cards.append(("Answer", f"{request.completion_tokens:,} tokens"))
        texts = _texts(run, trace)
        facts.append(
            ("Parameters", tuple((name, value_text(value)) for name, value in sorted(request.parameters.items())))
        )
        facts.append(("Asked by the model in vain", tuple(("generation_config.json", note) for note in trace.notes)))
    facts += software_facts(trace.versions, trace)
    prompt_tokens = None if request is None else request.prompt_tokens
    charts = (
        ("Waterfall", "Where each token was when, from the moment the request was asked for.", waterfall(trace)),
        ("Each token", "How long each token took after the one before it, and what for.", columns(trace)),
        ("Speed", "Tokens per second while the answer came.", speed(trace)),
    )
    return replace(
        common,
        cards=tuple(cards),
        reason=explain(trace, prompt_tokens),
        bar=_bar(found, trace),
        charts=tuple((title, what, chart) for title, what, chart in charts if chart is not None),
        legend=_legend(found),
        stages=_stages(trace.plan, found),
        texts=tuple(texts),
        facts=tuple((title, lines) for title, lines in facts if lines),
        nodes=node_table(trace.nodes),
        memory=memory_table(trace.memory, trace.nodes),
    )


def _bar(found: Shares, trace: RequestTrace) -> tuple[Slice, ...]:
    """All of a request's time, in the order in which it passed; the answer's by what it went into."""
    if found.total_us <= 0 or not trace.tokens:
        return ()
    parts = [("Getting ready", "prepare", found.prepare_us), ("Reading the prompt", "prompt", found.prompt_us)]
    parts += [(f"Computing on {_place(s.node, s.stage)}", f"s{s.stage % 8}", s.compute_us) for s in found.stages]
    parts += [("Waiting", "queue", found.queue_us), (_wire(found), "wire", found.wire_us)]
    return tuple(Slice(name, look, us, us / found.total_us) for name, look, us in parts if us > 0)


def _legend(found: Shares) -> tuple[tuple[str, str], ...]:
    stages = [(f"Computing on {_place(s.node, s.stage)}", f"s{s.stage % 8}") for s in found.stages]
    return (*stages, ("Waiting", "queue"), (_wire(found), "wire"))


def _wire(found: Shares) -> str:
    return "Handing over" if len(found.stages) == 1 else "Between the stages"


def _place(node: str, stage: int) -> str:
    return f"{node}, stage {stage}" if node != f"stage {stage}" else node


def _texts(run: Run, trace: RequestTrace) -> list[tuple[str, str, str]]:
    request = run.request
    if request is None:
        return []
    if not trace.prompt_kept and not request.prompt and not request.result:
        return [("Prompt and answer", "", "The settings say that texts are not kept.")]
    texts = []
    for title, text, missing in (
        ("Prompt", request.prompt, "No text; the request gave token ids."),
        ("Answer", request.result, "No answer."),
    ):
        cut = f"{len(text) - LONGEST_TEXT:,} more characters are left out." if len(text) > LONGEST_TEXT else ""
        texts.append((title, text[:LONGEST_TEXT], cut if text else missing))
    return texts


# --- deployments and jobs ------------------------------------------------------------------------------


def _phased(common: Section, run: Run, trace: DeploymentTrace | JobTrace, took: int | None) -> Section:
    whole = trace.took_us or took or 0
    moved = sum(phase.total_bytes - phase.already_bytes for phase in trace.phases)
    cards = [("Time", micros(whole))]
    nodes: tuple[NodeFacts, ...] = ()
    memory: tuple[NodeMemory, ...] = ()
    if isinstance(trace, DeploymentTrace):
        nodes, memory = trace.nodes, trace.memory
        if trace.plan is not None:
            cards.append(("Stages", f"{len(trace.plan.stages)}"))
            cards.append(("Layers", f"{max((stage.end for stage in trace.plan.stages), default=0)}"))
            cards.append(("Context", f"{trace.plan.context:,} tokens"))
    if moved > 0:
        cards.append(("Moved", size_text(moved)))
    facts = [(run.kind.capitalize(), overview_facts(run))]
    if run.job is not None:
        facts.append(("Result", tuple((name, value_text(value)) for name, value in run.job.details.items())))
    facts += software_facts(trace.versions, trace)
    chart = phase_chart(trace.phases, whole)
    return replace(
        common,
        cards=tuple(cards),
        charts=() if chart is None else (("Phases", "What was done where, and when.", chart),),
        legend=_phase_legend(trace.phases),
        facts=tuple((title, lines) for title, lines in facts if lines),
        nodes=node_table(nodes),
        memory=memory_table(memory, nodes),
    )


def _phase_legend(phases: Sequence[Phase]) -> tuple[tuple[str, str], ...]:
    """How long each kind of phase took, on the nodes where it was quickest and slowest."""
    lines = []
    for number, name in enumerate(phase_names(phases)):
        times = sorted(max(0, phase.ended_us - phase.began_us) for phase in phases if phase.name == name)
        shown = list(dict.fromkeys((micros(times[0]), micros(times[-1]))))
        lines.append((f"{name}: {' to '.join(shown)}", f"s{number % 8}"))
    return tuple(lines)


# --- what all have -------------------------------------------------------------------------------------


def _stages(plan: Plan | None, found: Shares | None) -> tuple[StageLine, ...]:
    lines = []
    for number, stage in enumerate(() if plan is None else plan.stages):
        line = StageLine(
            number=stage.stage,
            node=stage.node or f"node {stage.node_id}",
            layers=layers(stage.start, stage.end),
            count=stage.end - stage.start,
            weights=size_text(stage.weight_bytes) if stage.weight_bytes else "–",
            kv=size_text(stage.kv_bytes) if stage.kv_bytes else "–",
            ways=tuple(way_lines(stage.ways)),
        )
        if found is not None and number < len(found.stages) and found.decode_us > 0:
            totals, trips = found.stages[number], max(1, found.tokens - 1)
            line = StageLine(
                number=line.number, node=line.node, layers=line.layers, count=line.count, weights=line.weights,
                kv=line.kv, ways=line.ways, compute=micros(totals.compute_us / trips),
                queue=micros(totals.queue_us / trips),
                compute_share=min(1.0, totals.compute_us / found.decode_us),
                queue_share=min(1.0, totals.queue_us / found.decode_us),
            )  # fmt: skip
        lines.append(line)
    return tuple(lines)


def _took(run: Run) -> int | None:
    if run.completed_at is not None:
        return round((run.completed_at - run.created_at).total_seconds() * 1e6)
    trace = run.request_trace
    return trace.tokens[-1].at_us if trace is not None and trace.tokens else None
