"""What there is to say of a run, whatever its kind: what its detail pane shows and what can be copied."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.registry import DeploymentRecord, EventRecord, JobRecord, RequestRecord, ShardRecord
from app.ui.formats import clock, duration, layers_text, short, size_text
from app.ui.paging.export import json_line
from app.ui.runs.run_models import KINDS, time_taken
from app.ui.runs.state_look import look_of

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Passage:
    """A text to read and copy."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """Facts under a heading."""

    title: str
    facts: Facts


@dataclass(frozen=True)
class Story:
    """All that the detail pane shows."""

    id: int | str
    kind: str
    """request, job or deployment"""
    title: str
    status: str
    error: str | None
    advice: str
    passages: tuple[Passage, ...]
    sections: tuple[Section, ...]
    record: RequestRecord | JobRecord | DeploymentRecord
    model_name: str | None = None
    answer: str | None = None
    is_over: bool = True
    timings: Mapping[str, float] = field(default_factory=dict)
    events: tuple[EventRecord, ...] = ()

    def as_json(self) -> str:
        return json.dumps(json.loads(json_line(self.record)), ensure_ascii=False, indent=2)

    def as_text(self) -> str:
        """Everything that is shown, to paste into a message."""
        lines = [f"{self.title} ({look_of(self.status).word.lower()})"]
        if self.error:
            lines += ["", f"Error: {self.error}"]
        for section in self.sections:
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


def request_story(record: RequestRecord, events: Sequence[EventRecord] = ()) -> Story:
    timings = record.timings
    rate = timings.get("tokens_per_second")
    overview: Facts = (
        ("Model", record.model_name),
        ("Deployment", record.deployment_id or "–"),
        ("Asked", _moment(record.created_at)),
        ("Started", _moment(record.started_at)),
        ("Ended", _moment(record.completed_at)),
        ("Ended by", _REASONS.get(record.finish_reason or "", record.finish_reason or "–")),
        ("Time", time_taken(record.created_at, record.completed_at)),
        ("First token after", duration(timings.get("first_token"))),
        ("Speed", "–" if rate is None else f"{rate:.1f} tokens/s"),
        ("Prompt", f"{record.prompt_tokens:,} tokens"),
        ("Answer", f"{record.completion_tokens:,} tokens"),
        ("Token ids kept", f"{len(record.prompt_token_ids):,} + {len(record.token_ids):,}"),
    )
    parameters = tuple((name.replace("_", " "), _value(value)) for name, value in sorted(record.parameters.items()))
    advice = ""
    if record.error:
        kept = "What was generated until then is kept. " if record.result else ""
        advice = f"{kept}When the cause is mended, ask again in the chat."
    waiting = "No answer." if record.status.is_over else "The answer is shown here when it has ended."
    return Story(
        record.id, "request", f"Request {record.id}", record.status, record.error, advice,
        (Passage("Prompt", record.prompt), Passage("Answer", record.result or waiting)),
        (Section("Overview", overview), Section("Parameters", parameters or (("All", "as the model has them"),))),
        record, record.model_name, record.result or None, record.status.is_over, timings, tuple(events),
    )  # fmt: skip


def job_story(record: JobRecord) -> Story:
    overview: Facts = (
        ("Kind", KINDS.get(record.kind, record.kind)),
        ("Model", record.model_name or "–"),
        ("Asked", _moment(record.created_at)),
        ("Started", _moment(record.started_at)),
        ("Ended", _moment(record.completed_at)),
        ("Time", time_taken(record.started_at, record.completed_at)),
    )
    details = tuple(
        (name.replace("_", " ").capitalize(), _detail(name, value)) for name, value in record.details.items()
    )
    sections = (Section("Overview", overview), *((Section("Result", details),) if details else ()))
    advice = "It can be started again from the same place; what was done already is used." if record.error else ""
    return Story(
        record.id, "job", record.title, record.status, record.error, advice, (), sections, record, record.model_name,
        is_over=record.status.is_over,
    )  # fmt: skip


def deployment_story(
    record: DeploymentRecord,
    shards: Sequence[ShardRecord] = (),
    nodes: Mapping[int, str] | None = None,
    events: Sequence[EventRecord] = (),
) -> Story:
    overview: Facts = (
        ("Model", record.model_name),
        ("Deployment", record.id),
        ("Type", record.dtype),
        ("Context", f"{record.context:,} tokens"),
        ("KV memory for", f"{record.kv_tokens:,} tokens"),
        ("Epoch", str(record.epoch)),
        ("Asked", _moment(record.created_at)),
        ("Changed", _moment(record.updated_at)),
        ("Plan", short(record.plan_hash, 16)),
    )
    known = nodes or {}
    stages = tuple(
        (
            f"Stage {number}",
            f"layers {layers_text(shard.start_layer, shard.end_layer)} on {_node(shard.node_id, known)}",
        )
        for number, shard in enumerate(sorted(shards, key=lambda shard: shard.start_layer), start=1)
    )
    sections = (Section("Overview", overview), *((Section("Stages", stages),) if stages else ()))
    advice = "See what each node can hold on the board, and deploy again." if record.error else ""
    return Story(
        record.id, "deployment", f"Deployment of {record.model_name}", record.status, record.error, advice, (),
        sections, record, record.model_name, events=tuple(events),
    )  # fmt: skip


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
        return ", ".join(f"layers {layers_text(*pair)}" for pair in pairs)
    return _value(value)
