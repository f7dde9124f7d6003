"""A run told once: all that there is to say of it but pictures of its times. Pure.

Window, report, page and command render the same telling, so they say the same in the same words. Moments are told as
such: only who renders them knows the reader's time zone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from app.figures import (
    amount_text,
    clock,
    data_rate,
    duration,
    held_text,
    layers,
    micros,
    percent,
    short,
    size_text,
    token_rate,
)
from app.runs.bottleneck import explain
from app.runs.foreseen import corrected_text, predicted_facts, predicted_text
from app.runs.interruptions import interruption_text
from app.runs.run import RequestFacts, Run, RunEvent
from app.runs.trace import (
    UNKNOWN,
    DeploymentTrace,
    JobTrace,
    ModelFacts,
    NodeFacts,
    NodeMemory,
    Origin,
    Phase,
    Plan,
    RequestTrace,
    StagePlan,
    Versions,
)
from app.runs.waterfall import Shares, shares
from app.runs.ways import way_lines

Fact = tuple[str, str | datetime]
Facts = tuple[Fact, ...]
"""Names and values."""

LONGEST_TEXT = 200_000
"""Characters of a prompt or an answer that are shown; a copy or an export has all of them."""

STATES = {
    "pending": "Waiting", "queued": "Waiting", "processing": "Running", "running": "Running", "loading": "Loading",
    "completed": "Done", "done": "Done", "ready": "Ready", "failed": "Failed", "cancelled": "Cancelled",
    "unloaded": "Unloaded",
}  # fmt: skip
"""The word for each status of requests, jobs and deployments."""
JOB_KINDS = {
    "cut": "Cut into shards", "add": "Add a model", "demo": "Demo model", "deploy": "Deploy", "measure": "Measure",
    "links": "Measure links", "ssh": "Add over SSH", "local": "Start agents here", "ray": "Bring agents by Ray",
    "update": "Update an agent", "invite": "Invite a machine",
}  # fmt: skip
_GOES_ON = "It can be begun again, and goes on from where it was: what was fetched or sent already is used."
_AGAIN = {"add": _GOES_ON, "demo": _GOES_ON, "deploy": _GOES_ON, "invite": ""}
"""What to do about a failed job, where that is not plainly to begin it again."""

GETTING_READY, READING_THE_PROMPT, COMPUTING = "Getting ready", "Reading the prompt", "Computing"
WAITING, ON_THE_WAY, INTERRUPTED = "Waiting for a turn", "On the way", "Interrupted"
"""What a request's time goes into."""

_WAYS = {"window": "in the window", "command": "on the command line", "http": "over HTTP", "program": "from a program"}
_REASONS = {"stop": "the model ended it", "length": "the token limit", "error": "an error"}
_FORGOTTEN = "The settings say that texts are not kept."


@dataclass(frozen=True)
class Passage:
    """A text to read and copy; `note` says why there is none."""

    title: str
    text: str
    note: str = ""

    def shown(self) -> tuple[str, str]:
        """The text as far as it is shown, and what to say of what is not."""
        if not self.text:
            return "", self.note
        more = len(self.text) - LONGEST_TEXT
        return self.text[:LONGEST_TEXT], f"{more:,} more characters are left out." if more > 0 else ""


@dataclass(frozen=True)
class Section:
    """Facts under a heading."""

    title: str
    facts: Facts


@dataclass(frozen=True)
class TimeShare:
    """A part of a request's time. `kind`: prepare, prompt, compute, queue or wire."""

    kind: str
    name: str
    us: int
    share: float
    """Of the whole."""

    @property
    def words(self) -> str:
        return share_words(self.us, self.share)


def share_words(us: float, share: float) -> str:
    """A part of some time: 1.4 s, 71 %."""
    return f"{micros(us)}, {percent(share)}"


@dataclass(frozen=True)
class Telling:
    """All that is said of a run."""

    run: Run
    title: str
    facts: Facts
    """What it was, who asked, when."""
    figures: Facts
    """How long and how much: what a report begins with."""
    sections: tuple[Section, ...] = ()
    """What belongs to runs of its kind."""
    plan: tuple[Section, ...] = ()
    """Where it ran, and with what."""
    passages: tuple[Passage, ...] = ()
    insight: str = ""
    """Where the time went, as one sentence."""
    times: tuple[TimeShare, ...] = ()
    advice: str = ""
    """What to do about its error."""

    @property
    def id(self) -> int | str:
        return self.run.id if self.run.kind == "deployment" else int(self.run.id)

    @property
    def state(self) -> str:
        """Its status in a word."""
        return state_word(self.run.status)

    @property
    def is_over(self) -> bool:
        return self.run.completed_at is not None

    @property
    def answer(self) -> str | None:
        return (self.run.request.result or None) if self.run.request is not None else None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Of a deployment or a job."""
        return self.run.trace.phases if isinstance(self.run.trace, DeploymentTrace | JobTrace) else ()

    @property
    def overview(self) -> Section:
        return Section("Overview", (*self.facts, *self.figures))

    def all_sections(self) -> tuple[Section, ...]:
        return (self.overview, *self.sections, *self.plan)

    def as_json(self) -> str:
        """The run in the form in which it is exported."""
        return json.dumps(json.loads(msgspec.json.encode(self.run)), ensure_ascii=False, indent=2)

    def as_text(self) -> str:
        """Everything that is said, to paste into a message."""
        lines = [f"{self.title} ({self.state.lower()})"]
        if self.run.error:
            lines += ["", f"Error: {self.run.error}", *([self.advice] if self.advice else [])]
        if self.insight:
            lines += ["", self.insight]
        for section in self.all_sections():
            lines += ["", section.title]
            lines += [f"  {name}: {clock(v) if isinstance(v, datetime) else v}" for name, v in section.facts]
        for passage in self.passages:
            lines += ["", passage.title, passage.text or passage.note]
        if self.run.events:
            lines += [
                "",
                "Events",
                *(f"  {clock(each.at)} {each.level}: {event_text(each)}" for each in self.run.events),
            ]
        return "\n".join(lines)


def tell(run: Run) -> Telling:
    """All that there is to say of a run, as far as it has come."""
    if run.request is not None:
        return _request(run, run.request)
    trace = run.trace if isinstance(run.trace, DeploymentTrace | JobTrace) else None
    took = time_taken(run.started_at, run.completed_at)
    if trace is not None and trace.took_us:
        took = micros(trace.took_us)
    phases = trace.phases if trace is not None else ()
    moved = sum(phase.total_bytes - phase.already_bytes for phase in phases)
    figures: list[Fact] = [("Time", took)]
    if run.plan is not None:
        figures.append(("Stages", f"{len(run.plan.stages)}"))
        figures += _room(run.plan)
    if isinstance(trace, DeploymentTrace) and trace.foreseen is not None:
        figures.append(("Predicted", predicted_text(trace.foreseen)))
        if corrected := corrected_text(trace.foreseen.correction, trace.foreseen.corrected_runs):
            figures.append(("Corrected", corrected))
    if moved > 0:
        figures.append(("Moved", size_text(moved)))
    sections = []
    if run.job is not None:
        title, kind = run.job.title, JOB_KINDS.get(run.job.kind, run.job.kind)
        what: Facts = (("Kind", kind), ("Model", run.model or "–"))
        advice = _AGAIN.get(run.job.kind, "It can be begun again.")
        if run.job.details:
            sections.append(Section("Result", tuple((_named(n), _detail(n, v)) for n, v in run.job.details.items())))
    else:
        title, what = f"Deployment of {run.model}", (("Model", run.model or "–"), ("Deployment", run.id))
        advice = "See what each node can hold, and deploy again."
    if phases:
        told = ((f"{number}", phase_text(phase)) for number, phase in enumerate(phases, start=1))
        sections.append(Section("Phases", tuple(told)))
    return Telling(
        run, title, (*what, *_asked(run)), tuple(figures), tuple(sections), plan_sections(run),
        advice=advice if run.error else "",
    )  # fmt: skip


def _prompt_told(tokens: int, cached: int) -> str:
    return f"{cached:,} of {tokens:,} tokens from cache" if cached else f"{tokens:,} tokens"


def _request(run: Run, request: RequestFacts) -> Telling:
    trace = run.request_trace or RequestTrace()
    found = shares(trace) if trace.tokens or trace.chunks else None
    facts: Facts = (
        ("Model", run.model or "–"),
        ("Deployment", request.deployment_id or "–"),
        *_asked(run),
        ("Ended by", _REASONS.get(request.finish_reason or "", request.finish_reason or "–")),
        ("Token ids kept", f"{len(request.prompt_token_ids):,} + {len(request.token_ids):,}"),
    )
    first = request.timings.get("first_token", trace.tokens[0].at_us / 1e6 if trace.tokens else None)
    speed, each = request.timings.get("tokens_per_second"), None
    if found is not None and len(trace.tokens) > 1 and found.decode_us > 0:
        each = found.decode_us / (len(trace.tokens) - 1)
        speed = speed or 1e6 / each
    figures: Facts = (
        ("Time", time_taken(run.created_at, run.completed_at)),
        ("First token after", duration(first)),
        ("Speed", "–" if speed is None else token_rate(speed)),
        ("Each token", "–" if each is None else micros(each)),
        ("Prompt", _prompt_told(request.prompt_tokens, trace.cached_tokens)),
        ("Answer", f"{request.completion_tokens:,} tokens"),
    )
    asked = tuple((name, value_text(value)) for name, value in sorted(request.parameters.items()))
    sections = [Section("Parameters", asked or (("All", "as the model has them"),))]
    if predicted := predicted_facts(trace):
        sections.append(Section("Predicted", predicted))
    if trace.notes:
        vain = tuple(("generation_config.json", note) for note in trace.notes)
        sections.append(Section("Asked by the model in vain", vain))
    if trace.interruptions:
        told = tuple((f"After {micros(each.at_us)}", interruption_text(each)) for each in trace.interruptions)
        sections.append(Section("Interruptions", told))
    forgotten = run.request_trace is not None and not trace.prompt_kept and not request.prompt and not request.result
    waiting = "No answer." if run.completed_at is not None else "The answer is shown here when it has ended."
    kept = "What was generated until then is kept. " if request.result else ""
    return Telling(
        run=run,
        title=f"Request {run.id}",
        facts=facts,
        figures=figures,
        sections=tuple(sections),
        plan=plan_sections(run),
        passages=(
            Passage("Prompt", request.prompt, _FORGOTTEN if forgotten else "No text; the request gave token ids."),
            Passage("Answer", request.result, _FORGOTTEN if forgotten and run.completed_at is not None else waiting),
        ),
        insight="" if found is None else explain(trace, request.prompt_tokens or None).sentence,
        times=times_told(request.timings) if found is None else times_of(found),
        advice=f"{kept}When the cause is mended, ask again." if run.error else "",
    )


def _asked(run: Run) -> Facts:
    """By whom and when."""
    told = run.trace is not None and (run.origin != UNKNOWN or run.trace.versions is not None)
    return (
        ("Asked by", origin_text(run.origin) if told else "–"),
        ("Asked", run.created_at),
        ("Started", run.started_at or "–"),
        ("Ended", run.completed_at or "–"),
    )


def state_word(status: str) -> str:
    """Of a status of requests, jobs or deployments."""
    return STATES.get(status, status)


def origin_text(origin: Origin) -> str:
    """laptop, over HTTP: openai-python 2.1 from 10.0.0.9"""
    way = _WAYS.get(origin.via, origin.via)
    who = f"{origin.user}, {way}" if origin.user else way
    return f"{who}: {origin.client}" if origin.client else who


def asked_by(origin: Origin) -> str:
    """The end of a sentence: `; asked for by ada, in the window`, and nothing where nobody is known to have asked."""
    return "" if origin == UNKNOWN else f"; asked for by {origin_text(origin)}"


def time_taken(begun: datetime | None, ended: datetime | None) -> str:
    """So far, for what has not ended."""
    return duration(None if begun is None else ((ended or datetime.now(UTC)) - begun).total_seconds())


def event_text(event: RunEvent) -> str:
    """mini: a late beat; the node is named once."""
    return f"{event.node}: {event.message}" if event.node and event.node not in event.message else event.message


def phase_text(phase: Phase) -> str:
    """studio, sending: 900 ms, 180 MB (20 MB were there), 178 MB/s"""
    took = phase.ended_us - phase.began_us
    words = f"{f'{phase.node}, ' if phase.node else ''}{phase.name}: {micros(took)}"
    moved = phase.total_bytes - phase.already_bytes
    if phase.total_bytes:
        words += f", {size_text(phase.total_bytes)}"
        if phase.already_bytes:
            words += f" ({size_text(phase.already_bytes)} were there)"
        if took > 0 and moved > 0:
            words += f", {data_rate(moved / took * 1e6)}"
    return words


def times_of(found: Shares, *, by_stage: bool = False) -> tuple[TimeShare, ...]:
    """What a request's time went into, from the question to the last token.

    Args:
        by_stage: tell the computing of each stage by itself; its `kind` is s0, s1, …
    """
    computing = [("compute", COMPUTING, found.compute_us)]
    if by_stage:
        computing = [(f"s{k % 8}", computing_on(found, k), each.compute_us) for k, each in enumerate(found.stages)]
    parts = (
        ("prepare", GETTING_READY, found.prepare_us), ("prompt", READING_THE_PROMPT, found.prompt_us), *computing,
        ("queue", WAITING, found.queue_us), ("wire", ON_THE_WAY, found.wire_us),
        ("interrupted", INTERRUPTED, found.interrupted_us),
    )  # fmt: skip
    return _shares_of(parts, found.total_us)


def computing_on(found: Shares, stage: int) -> str:
    return f"{COMPUTING} on {stage + 1} · {found.stages[stage].node}"


def times_told(timings: Mapping[str, float]) -> tuple[TimeShare, ...]:
    """The same of a request whose tokens' times were not kept; the names of `timings` are those of its record.

    `first_token` counts from the beginning, with the getting ready in it. What was never reached is left out.
    """
    prepare, queue, decode = (timings.get(name, 0.0) for name in ("prepare", "queue", "decode"))
    first = timings.get("first_token")
    total = timings.get("total", (first or prepare) + decode)
    parts = [("prepare", GETTING_READY, prepare), ("queue", WAITING, queue)]
    if first is not None:
        parts += [("prompt", READING_THE_PROMPT, first - prepare - queue), ("compute", "Answering", decode)]
    rest = total - sum(max(0.0, seconds) for _, _, seconds in parts)
    # A few milliseconds of writing down what came are no part of it.
    if rest > 0.02 * total:
        parts.append(("wire", WAITING if first is None else "Until it ended", rest))
    return _shares_of([(kind, name, round(seconds * 1e6)) for kind, name, seconds in parts], round(total * 1e6))


def _shares_of(parts: Sequence[tuple[str, str, int]], whole: int) -> tuple[TimeShare, ...]:
    return tuple(TimeShare(kind, name, us, us / max(1, whole)) for kind, name, us in parts if us > 0)


def value_text(value: object) -> str:
    if value is None or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _named(name: str) -> str:
    """output_dir as people write it: Output dir."""
    return name.replace("_", " ").capitalize()


def _detail(name: str, value: object) -> str:
    """Bytes, seconds and ranges of layers read better than their figures."""
    if name.endswith("bytes") and isinstance(value, int):
        return size_text(value)
    if name.endswith("seconds") and isinstance(value, int | float):
        return duration(value)
    if name == "ranges" and isinstance(value, list | tuple):
        pairs = [each for each in value if isinstance(each, list | tuple) and len(each) == 2]
        return ", ".join(layers(*pair) for pair in pairs)
    return value_text(value)


# --- where it ran, and with what ---


def plan_sections(run: Run) -> tuple[Section, ...]:
    """Plan, nodes, model and versions, as far as they were recorded."""
    trace = run.trace
    sections: list[Section] = []
    if isinstance(trace, RequestTrace | DeploymentTrace):
        if trace.plan is not None:
            room = _room(trace.plan) if isinstance(trace, RequestTrace) else ()  # else it is among the figures
            sections += [_plan(trace.plan, room), _stages(trace.plan.stages)]
        memory = {each.node_id: each for each in trace.memory}
        sections += [_node(node, memory.get(node.node_id), trace.nodes) for node in trace.nodes]
        if trace.model is not None:
            sections.append(_model(trace.model))
    if trace is not None and trace.versions is not None:
        sections.append(_versions(trace.versions))
    return tuple(sections)


def _room(plan: Plan) -> Facts:
    return ("Context", f"{plan.context:,} tokens"), ("KV memory for", f"{plan.kv_tokens:,} tokens")


def _plan(plan: Plan, room: Facts) -> Section:
    return Section("Plan", (
        ("Deployment", plan.deployment), ("Type", plan.serving.numbers), *room, ("Epoch", str(plan.epoch)),
        ("Plan hash", short(plan.plan_hash, 17)),
    ))  # fmt: skip


def _stages(stages: Sequence[StagePlan]) -> Section:
    return Section("Stages", tuple((stage_name(stage), _stage(stage)) for stage in stages))


def stage_name(stage: StagePlan) -> str:
    """1 · studio: stages are counted from 1, as people do."""
    return f"{stage.stage + 1} · {stage.node or f'node {stage.node_id}'}"


def _stage(stage: StagePlan) -> str:
    """What it holds; below it how it ran, a line for each way."""
    held = layers(stage.start, stage.end)
    if stage.weight_bytes:
        held += f", {size_text(stage.weight_bytes)} of weights, {size_text(stage.kv_bytes)} of KV cache"
    return "\n".join((held, *(f"{title}: {text}" for title, text in way_lines(stage.ways))))


def _node(node: NodeFacts, memory: NodeMemory | None, nodes: Sequence[NodeFacts]) -> Section:
    software = (("agent", node.software), ("torch", node.torch), ("transformers", node.transformers))
    facts = [
        ("Address", node.address.removeprefix("tcp://")),
        ("Processor", node.cpu),
        ("Device", f"{node.device}, {node.threads} threads" if node.threads else node.device),
        ("System", node.system),
        ("Software", ", ".join(f"{name} {version}" for name, version in software if version)),
        ("Memory at the end", _memory(memory, node.memory_total) if memory is not None else ""),
    ]
    # With its number where another one has the same name.
    same = sum(other.name == node.name for other in nodes) > 1
    title = f"Node {node.name} ({node.node_id})" if same else f"Node {node.name}"
    return Section(title, tuple((name, value) for name, value in facts if value))


def _memory(memory: NodeMemory, total: int) -> str:
    free = f"{size_text(memory.available)} free{f' of {size_text(total)}' if total else ''} on the machine"
    held = held_text(memory.process, memory.believed, memory.agent)
    return f"{amount_text(memory.used, memory.budget)} in layers; its process: {held}; {free}"


def _model(model: ModelFacts) -> Section:
    return Section("Model", (
        ("Architecture", model.architecture), ("Source", model.source), ("Layers", str(model.layers)),
        ("Parameters", f"{model.parameters:,}"), ("Stored as", model.dtype),
        ("Weights", short(model.content, 17) or "–"),
    ))  # fmt: skip


def _versions(versions: Versions) -> Section:
    return Section("Versions of the controller", (
        ("Shardboard", f"{versions.shardboard}, wire {versions.wire}"), ("Python", versions.python),
        ("System", versions.system),
        ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(versions.packages.items()))),
    ))  # fmt: skip
