"""What there is to say of a run, whatever its kind: what its detail pane shows and what can be copied."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from app.figures import clock, duration, layers, micros, short, size_text, token_rate
from app.registry import DeploymentRecord, ShardRecord
from app.runs.bottleneck import explain
from app.runs.run import Run, RunEvent
from app.runs.trace import DeploymentTrace, JobTrace, Phase
from app.ui.runs.plan_story import origin_text, plan_sections
from app.ui.runs.run_models import KINDS, time_taken
from app.ui.runs.section import Facts, Passage, Section
from app.ui.runs.state_look import look_of

__all__ = ["Passage", "Section", "Story", "deployment_story", "job_story", "request_story"]


@dataclass(frozen=True)
class Story:
    """All that the detail pane shows but pictures of times."""

    id: int | str
    run: Run
    title: str
    advice: str
    passages: tuple[Passage, ...]
    sections: tuple[Section, ...]
    plan: tuple[Section, ...] = ()
    insight: str = ""
    """Where the time went, as one sentence."""
    answer: str | None = None
    is_over: bool = True

    @property
    def kind(self) -> str:
        """request, job or deployment"""
        return self.run.kind

    @property
    def status(self) -> str:
        return self.run.status

    @property
    def error(self) -> str | None:
        return self.run.error

    @property
    def model_name(self) -> str | None:
        return self.run.model

    @property
    def events(self) -> tuple[RunEvent, ...]:
        return self.run.events

    @property
    def timings(self) -> Mapping[str, float]:
        return {} if self.run.request is None else self.run.request.timings

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Of a deployment or a job."""
        return self.run.trace.phases if isinstance(self.run.trace, DeploymentTrace | JobTrace) else ()

    def as_json(self) -> str:
        """The run in the form in which it is exported."""
        return json.dumps(json.loads(msgspec.json.encode(self.run)), ensure_ascii=False, indent=2)

    def as_text(self) -> str:
        """Everything that is shown, to paste into a message."""
        lines = [f"{self.title} ({look_of(self.status).word.lower()})"]
        if self.error:
            lines += ["", f"Error: {self.error}"]
        if self.insight:
            lines += ["", self.insight]
        for section in (*self.sections, *self.plan):
            lines += ["", section.title, *(f"  {name}: {value}" for name, value in section.facts)]
        for passage in self.passages:
            lines += ["", passage.title, passage.text]
        if self.events:
            lines += ["", "Events", *(f"  {clock(each.at)} {each.level}: {each.message}" for each in self.events)]
        return "\n".join(lines)


def _moment(moment: datetime | None) -> str:
    return "–" if moment is None else clock(moment)


_REASONS = {
    "stop": "the model ended it",
    "length": "the token limit",
    "cancelled": "cancelled",
    "error": "an error",
}


def request_story(run: Run, is_over: bool = True) -> Story:
    facts = run.request
    assert facts is not None
    rate = facts.timings.get("tokens_per_second")
    overview: Facts = (
        ("Model", run.model or "–"),
        ("Asked by", origin_text(run.origin)),
        ("Deployment", facts.deployment_id or "–"),
        ("Asked", _moment(run.created_at)),
        ("Started", _moment(run.started_at)),
        ("Ended", _moment(run.completed_at)),
        ("Ended by", _REASONS.get(facts.finish_reason or "", facts.finish_reason or "–")),
        ("Time", time_taken(run.created_at, run.completed_at)),
        ("First token after", duration(facts.timings.get("first_token"))),
        ("Speed", "–" if rate is None else token_rate(rate)),
        ("Prompt", f"{facts.prompt_tokens:,} tokens"),
        ("Answer", f"{facts.completion_tokens:,} tokens"),
        ("Token ids kept", f"{len(facts.prompt_token_ids):,} + {len(facts.token_ids):,}"),
    )
    parameters = tuple((name.replace("_", " "), _value(value)) for name, value in sorted(facts.parameters.items()))
    advice = ""
    if run.error:
        kept = "What was generated until then is kept. " if facts.result else ""
        advice = f"{kept}When the cause is mended, ask again in the chat."
    trace = run.request_trace
    forgotten = trace is not None and not trace.prompt_kept
    waiting = "No answer." if is_over else "The answer is shown here when it has ended."
    if forgotten and is_over:
        waiting = "The preferences say that the text of prompts and answers is not kept."
    insight = ""
    if is_over and trace is not None and (trace.tokens or trace.chunks):
        insight = explain(trace, facts.prompt_tokens or None).sentence
    return Story(
        id=int(run.id),
        run=run,
        title=f"Request {run.id}",
        advice=advice,
        passages=(
            Passage("Prompt", facts.prompt or ("Not kept." if forgotten else "")),
            Passage("Answer", facts.result or waiting),
        ),
        sections=(
            Section("Overview", overview),
            Section("Parameters", parameters or (("All", "as the model has them"),)),
        ),
        plan=plan_sections(run),
        insight=insight,
        answer=facts.result or None,
        is_over=is_over,
    )


def job_story(run: Run, is_over: bool = True) -> Story:
    facts = run.job
    assert facts is not None
    overview: Facts = (
        ("Kind", KINDS.get(facts.kind, facts.kind)),
        ("Model", run.model or "–"),
        ("Asked by", origin_text(run.origin) if run.trace is not None else "–"),
        ("Asked", _moment(run.created_at)),
        ("Started", _moment(run.started_at)),
        ("Ended", _moment(run.completed_at)),
        ("Time", time_taken(run.started_at, run.completed_at)),
    )
    details = tuple(
        (name.replace("_", " ").capitalize(), _detail(name, value)) for name, value in facts.details.items()
    )
    return Story(
        id=int(run.id),
        run=run,
        title=facts.title,
        advice="It can be started again from the same place; what was done already is used." if run.error else "",
        passages=(),
        sections=(Section("Overview", overview), *((Section("Result", details),) if details else ())),
        plan=plan_sections(run),
        is_over=is_over,
    )


def deployment_story(
    run: Run,
    record: DeploymentRecord,
    shards: Sequence[ShardRecord] = (),
    nodes: Mapping[int, str] | None = None,
) -> Story:
    """`shards` tell of a deployment's stages while there is no trace of it."""
    trace = run.trace if isinstance(run.trace, DeploymentTrace) else None
    overview: Facts = (
        ("Model", record.model_name),
        ("Deployment", record.id),
        ("Asked by", origin_text(run.origin) if trace is not None else "–"),
        ("Type", record.dtype),
        ("Context", f"{record.context:,} tokens"),
        ("KV memory for", f"{record.kv_tokens:,} tokens"),
        ("Epoch", str(record.epoch)),
        ("Asked", _moment(record.created_at)),
        ("Changed", _moment(record.updated_at)),
        ("Loaded in", micros(trace.took_us) if trace is not None else "–"),
        ("Plan", short(record.plan_hash, 16)),
    )
    known = nodes or {}
    stages = tuple(
        (
            f"Stage {number}",
            f"{layers(shard.start_layer, shard.end_layer)} on {_node(shard.node_id, known)}",
        )
        for number, shard in enumerate(sorted(shards, key=lambda shard: shard.start_layer), start=1)
    )
    return Story(
        id=record.id,
        run=run,
        title=f"Deployment of {record.model_name}",
        advice="See what each node can hold on the board, and deploy again." if run.error else "",
        passages=(),
        sections=(Section("Overview", overview), *((Section("Stages", stages),) if stages else ())),
        plan=plan_sections(run),
        is_over=run.completed_at is not None,
    )


def _node(id: int | None, names: Mapping[int, str]) -> str:
    return "no node" if id is None else names.get(id, f"node {id}")


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _detail(name: str, value: object) -> str:
    """Bytes, seconds and ranges of layers read better than their figures."""
    if name.endswith("bytes") and isinstance(value, int):
        return size_text(value)
    if name.endswith("seconds") and isinstance(value, int | float):
        return duration(value)
    if name == "ranges" and isinstance(value, list | tuple):
        pairs = [each for each in value if isinstance(each, list | tuple) and len(each) == 2]
        return ", ".join(layers(*pair) for pair in pairs)
    return _value(value)
