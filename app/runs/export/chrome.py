"""A trace in the JSON Trace Event Format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Processes are the controller, with a track for each run, and the nodes, with a track for each stage. Times are
microseconds of Unix time, so several runs lie on one axis; the times of stages within a token are laid out as the
waterfall lays them out. Slices of one track never overlap: runs that were there at the same time get a track each.

The format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import msgspec

from app.figures import layers
from app.runs.interruptions import interruption_text
from app.runs.run import Run
from app.runs.trace import DeploymentTrace, JobTrace, Phase, RequestTrace
from app.runs.waterfall import Bar, bars, node_name, stage_count

CONTROLLER = 1
"""The controller's number as a process; nodes are counted from the next one on."""

Event = dict[str, Any]
"""A JSON object of the format."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def write_trace(runs: Iterable[Run], output: BinaryIO) -> int:
    """One event in each line, so that a broken file can still be looked into."""
    encoder = msgspec.json.Encoder()
    tracks = _Tracks()
    count = 0
    output.write(b'{"displayTimeUnit":"ms","otherData":{"producer":"shardboard"},"traceEvents":[')
    separator = b"\n"
    for run in runs:
        count += 1
        for event in _events(run, tracks):
            output.write(separator + encoder.encode(event))
            separator = b",\n"
    output.write(b"\n]}\n")
    return count


@dataclass
class _Lane:
    """A track and when it is taken, in order."""

    number: int
    taken: list[tuple[int, int]] = field(default_factory=list)

    def take(self, began: int, ended: int) -> bool:
        """Whether the track was free in that time, which it is no more."""
        place = bisect_left(self.taken, (began, ended))
        before, after = self.taken[place - 1 : place], self.taken[place : place + 1]
        if any(other_ended > began for _, other_ended in before) or any(other < ended for other, _ in after):
            return False
        self.taken.insert(place, (began, ended))
        return True


class _Tracks:
    """Gives out numbers of processes and threads, and the events that name them."""

    def __init__(self) -> None:
        self._nodes: dict[str, int] = {}
        self._lanes: dict[tuple[int, str], list[_Lane]] = {}
        self._threads: dict[int, int] = {}
        self._flows = 0
        self._named_controller = False

    def controller(self) -> Iterator[Event]:
        if not self._named_controller:
            self._named_controller = True
            yield from _process(CONTROLLER, "Controller")

    def node(self, name: str) -> tuple[int, list[Event]]:
        """A node's number as a process."""
        if name in self._nodes:
            return self._nodes[name], []
        number = self._nodes[name] = CONTROLLER + 1 + len(self._nodes)
        return number, list(_process(number, f"Node {name}"))

    def thread(self, process: int, name: str, began: int, ended: int) -> tuple[int, list[Event]]:
        """A track of that name that is free in this time; a further one where none is."""
        lanes = self._lanes.setdefault((process, name), [])
        lane = next((lane for lane in lanes if lane.take(began, ended)), None)
        if lane is not None:
            return lane.number, []
        number = self._threads[process] = self._threads.get(process, 0) + 1
        lane = _Lane(number)
        lane.take(began, ended)
        lanes.append(lane)
        shown = name if len(lanes) == 1 else f"{name} ({len(lanes)})"
        return number, [
            _meta("thread_name", process, number, {"name": shown}),
            _meta("thread_sort_index", process, number, {"sort_index": number}),
        ]

    def flow(self) -> int:
        self._flows += 1
        return self._flows


def _events(run: Run, tracks: _Tracks) -> Iterator[Event]:
    yield from tracks.controller()
    began = _unix_us(run.created_at)
    match run.trace:
        case RequestTrace() as trace:
            yield from _request(run, trace, began, tracks)
        case DeploymentTrace() | JobTrace() as trace:
            yield from _phases(run, trace.phases, trace.took_us, began, tracks)
        case None:
            yield from _phases(run, (), 0, began, tracks)


def _title(run: Run) -> str:
    if run.job is not None:
        return f"Job {run.id}: {run.job.title}"
    return f"{run.kind.capitalize()} {run.id}"


def _whole(run: Run, process: int, thread: int, began: int, ended: int) -> Iterator[Event]:
    """The slice that holds all others of a run, and what happened meanwhile."""
    facts: dict[str, Any] = {"model": run.model, "status": run.status}
    if run.error:
        facts["error"] = run.error
    if run.request is not None:
        facts |= {
            "prompt_tokens": run.request.prompt_tokens,
            "completion_tokens": run.request.completion_tokens,
            "finish_reason": run.request.finish_reason,
            "seed": run.request.seed,
        }
    yield _slice(_title(run), run.kind, process, thread, began, ended, facts)
    for event in run.events:
        at = min(max(_unix_us(event.at), began), ended)
        told = {"level": event.level, "source": event.source, "node": event.node}
        yield _instant(event.message[:200], "event", process, thread, at, told)


# --- requests ------------------------------------------------------------------------------------------


def _request(run: Run, trace: RequestTrace, began: int, tracks: _Tracks) -> Iterator[Event]:
    trips = bars(trace)
    last = max(trace.first_step_us, *(bar.ended_us for bar in trips), 0)
    completed = began if run.completed_at is None else _unix_us(run.completed_at)
    ended = max(began + last, completed)
    thread, made = tracks.thread(CONTROLLER, "Requests", began, ended)
    yield from made
    yield from _whole(run, CONTROLLER, thread, began, ended)
    if trace.first_step_us > 0:
        yield _slice("getting ready", "prepare", CONTROLLER, thread, began, began + trace.first_step_us, {})
    for pause in trace.interruptions:
        facts = {"what": interruption_text(pause)}
        begun = began + pause.at_us
        yield _slice("interrupted", "interrupted", CONTROLLER, thread, begun, begun + pause.lasted_us, facts)
    stages = _Stages(trace, began, last, tracks)
    yield from stages.names
    free = trace.first_step_us
    for bar, facts in zip(trips, _facts_of_trips(run, trace), strict=True):
        # On the request's own track chunks that overlap stand side by side, each from where the one before it ended.
        start = min(max(bar.began_us, free), bar.ended_us)
        free = max(free, bar.ended_us)
        name = "prompt" if bar.token is None else "token" if bar.token else "first token"
        kind = "prompt" if bar.token is None else "token"
        yield _slice(name, kind, CONTROLLER, thread, began + start, began + bar.ended_us, facts)
        if bar.token == 0:
            yield _instant("first token", "token", CONTROLLER, thread, began + bar.ended_us, {})
        yield from stages.trip(bar, name)


def _facts_of_trips(run: Run, trace: RequestTrace) -> Iterator[dict[str, Any]]:
    tokens = run.request.token_ids if run.request is not None else ()
    for chunk in trace.chunks:
        yield {"prompt_tokens_done": chunk.done, "took_us": chunk.took_us}
    for number, time in enumerate(trace.tokens):
        facts: dict[str, Any] = {"index": number}
        if number < len(tokens):
            facts["token_id"] = tokens[number]
        facts |= {
            "took_us": time.took_us,
            "batch": time.batch,
            "compute_us": time.compute_us,
            "queue_us": time.queue_us,
            "wire_us": time.wire_us,
        }
        yield facts


class _Stages:
    """The tracks of the stages that one request passed, and the slices on them."""

    def __init__(self, trace: RequestTrace, began: int, last: int, tracks: _Tracks) -> None:
        self._began, self._tracks = began, tracks
        self._threads: list[tuple[int, int]] = []
        self._free = [0] * stage_count(trace)
        self.names: list[Event] = []
        for stage in range(stage_count(trace)):
            process, named = tracks.node(node_name(trace.plan, stage))
            planned = trace.plan.stages[stage] if trace.plan and stage < len(trace.plan.stages) else None
            model = f"{trace.plan.model} " if trace.plan else ""
            where = f", {layers(planned.start, planned.end)}" if planned else ""
            thread, made = tracks.thread(process, f"{model}stage {stage}{where}", began, began + last)
            self.names += [*named, *made]
            self._threads.append((process, thread))

    def trip(self, bar: Bar, name: str) -> Iterator[Event]:
        """What the stages did with a token or a chunk, and arrows from one to the next."""
        computed: list[tuple[int, int, int]] = []
        for segment in bar.segments:
            if segment.stage is None:
                continue
            process, thread = self._threads[segment.stage]
            start = max(segment.began_us, self._free[segment.stage])
            if start >= segment.ended_us:
                continue  # of chunks that overlap all but the first was laid over by the one before
            self._free[segment.stage] = segment.ended_us
            shown = "waiting" if segment.kind == "queue" else name
            began, ended = self._began + start, self._began + segment.ended_us
            yield _slice(shown, segment.kind, process, thread, began, ended, {"index": bar.token})
            if segment.kind == "compute":
                computed.append((process, thread, began))
        if len(computed) > 1:
            number = self._tracks.flow()
            for position, (process, thread, at) in enumerate(computed):
                yield _flow(number, "s" if position == 0 else "t" if position < len(computed) - 1 else "f",
                            process, thread, at)  # fmt: skip


# --- deployments and jobs ------------------------------------------------------------------------------


def _phases(run: Run, phases: tuple[Phase, ...], took: int, began: int, tracks: _Tracks) -> Iterator[Event]:
    last = max((phase.ended_us for phase in phases), default=0)
    completed = began if run.completed_at is None else _unix_us(run.completed_at)
    ended = max(began + max(took, last), completed)
    name = {"request": "Requests", "deployment": "Deployments", "job": "Jobs"}[run.kind]
    thread, made = tracks.thread(CONTROLLER, name, began, ended)
    yield from made
    yield from _whole(run, CONTROLLER, thread, began, ended)
    lines: dict[tuple[int | None, str], list[Phase]] = {}
    for phase in phases:
        lines.setdefault((phase.node_id, phase.node), []).append(phase)
    for (number, node), line in lines.items():
        process, place = CONTROLLER, thread
        if number is not None or node:
            process, named = tracks.node(node or f"node {number}")
            yield from named
            place, made = tracks.thread(process, name, began, ended)
            yield from made
        free = 0
        for phase in sorted(line, key=lambda each: each.began_us):
            start = max(free, phase.began_us)
            if start > phase.ended_us:
                continue
            free = phase.ended_us
            facts = {"bytes": phase.total_bytes, "already_bytes": phase.already_bytes}
            yield _slice(phase.name, "phase", process, place, began + start, began + phase.ended_us, facts)


# --- single events -------------------------------------------------------------------------------------


def _process(process: int, name: str) -> Iterator[Event]:
    yield _meta("process_name", process, 0, {"name": name})
    yield _meta("process_sort_index", process, 0, {"sort_index": process})


def _meta(name: str, process: int, thread: int, args: dict[str, Any]) -> Event:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "ts": 0, "args": args}


def _slice(name: str, kind: str, process: int, thread: int, began: int, ended: int, args: dict[str, Any]) -> Event:
    return {
        "ph": "X", "name": name, "cat": kind, "pid": process, "tid": thread, "ts": began, "dur": ended - began,
        "args": args,
    }  # fmt: skip


def _instant(name: str, kind: str, process: int, thread: int, at: int, args: dict[str, Any]) -> Event:
    return {"ph": "i", "s": "t", "name": name, "cat": kind, "pid": process, "tid": thread, "ts": at, "args": args}


def _flow(number: int, step: str, process: int, thread: int, at: int) -> Event:
    event = {"ph": step, "name": "step", "cat": "flow", "id": number, "pid": process, "tid": thread, "ts": at}
    # Without this the end of an arrow belongs to the slice that comes next, not to the one that it lies in.
    return event | {"bp": "e"} if step == "f" else event


def _unix_us(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND
