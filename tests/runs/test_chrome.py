"""The trace for Perfetto: valid whatever the runs are, and it says what they did."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.runs.export import ExportFormat, export_runs
from app.runs.run import Run, RunEvent
from app.runs.trace import ChunkTime, RequestTrace, StageShare, TokenTime
from tests.runs.samples import BEGAN, deployment_run, job_run, plan_of, prompt_in_chunks, request_run, trace_of
from tests.runs.trace_format import checked

START = 1_772_366_400_000_000
"""BEGAN in microseconds of Unix time."""


def exported(runs: list[Run]) -> list[dict[str, Any]]:
    output = io.BytesIO()
    assert export_runs(runs, ExportFormat.CHROME, output) == len(runs)
    return checked(output.getvalue())


def names(events: list[dict[str, Any]], what: str) -> list[str]:
    return [event["args"]["name"] for event in events if event["name"] == what]


def test_nodes_are_processes_and_stages_are_tracks() -> None:
    events = exported([request_run(trace_of(tokens=3, took_us=10_000, stages=[(0, 4_000), (700, 3_000)]))])
    assert names(events, "process_name") == ["Controller", "Node studio", "Node mini"]
    assert names(events, "thread_name") == ["Requests", "smol stage 0, layers 0–11", "smol stage 1, layers 12–23"]


def test_the_times_of_slices_are_those_of_the_trace() -> None:
    trace = trace_of(tokens=30, took_us=10_000, stages=[(0, 4_000), (700, 3_000)])
    events = exported([request_run(trace)])
    slices = [event for event in events if event["ph"] == "X"]
    tokens = [event for event in slices if event["cat"] == "token"]
    assert [event["ts"] + event["dur"] - START for event in tokens] == [token.at_us for token in trace.tokens]
    assert sum(event["dur"] for event in slices if event["cat"] == "compute") == 30 * 7_000
    assert sum(event["dur"] for event in slices if event["cat"] == "queue") == 30 * 700
    assert tokens[1]["args"] == {
        "index": 1, "token_id": 501, "took_us": 10_000, "batch": 1, "compute_us": 7_000, "queue_us": 700,
        "wire_us": 2_300,
    }  # fmt: skip
    assert sum(event["ph"] == "f" for event in events) == 30


def test_runs_at_the_same_time_get_a_track_each_and_later_ones_share_it() -> None:
    trace = trace_of(tokens=5, took_us=10_000, stages=[(0, 4_000), (700, 3_000)])
    offsets = (0, 0.02, 60)
    runs = [
        request_run(trace, id=str(number), began=BEGAN + timedelta(seconds=offset))
        for number, offset in enumerate(offsets)
    ]
    events = exported(runs)
    assert [name for name in names(events, "thread_name") if "Requests" in name] == ["Requests", "Requests (2)"]
    whole = {event["name"]: event["ts"] for event in events if event["ph"] == "X" and event["cat"] == "request"}
    assert whole == {f"Request {k}": START + round(offset * 1e6) for k, offset in enumerate(offsets)}


def test_deployments_jobs_and_runs_without_a_trace_are_there_too() -> None:
    failed = request_run(None, id="9", status="failed", error="mini is gone.")
    events = exported([deployment_run(), job_run(), failed])
    slices = {(event["cat"], event["name"]) for event in events if event["ph"] == "X"}
    assert {
        ("deployment", "Deployment d1"),
        ("job", "Job 3: Cut smol into 2 shards"),
        ("request", "Request 9"),
    } < slices
    assert {("phase", "sending"), ("phase", "loading"), ("phase", "writing")} < slices
    [warned] = [event for event in events if event["ph"] == "i"]
    assert (warned["name"], warned["args"]["node"]) == ("mini is slow", "mini")


def test_an_event_from_outside_the_run_stays_on_its_slice() -> None:
    early = RunEvent(at=BEGAN - timedelta(hours=1), level="info", source="node", message="joined")
    events = exported([request_run(trace_of(tokens=2, took_us=10, stages=[(0, 4)]), events=(early,))])
    assert [event["ts"] for event in events if event["name"] == "joined"] == [START]


def test_nothing_at_all_is_a_valid_trace() -> None:
    assert exported([]) == []


TIMES = st.integers(0, 10**6)
STAGES = st.lists(st.builds(StageShare, TIMES, TIMES), max_size=3).map(tuple)
TRACES = st.builds(
    lambda first, chunks, tokens, plan: RequestTrace(
        first_step_us=first, chunks=tuple(chunks), tokens=tuple(sorted(tokens, key=lambda t: t.at_us)), plan=plan
    ),
    TIMES,
    st.lists(st.builds(ChunkTime, TIMES, TIMES, TIMES, STAGES), max_size=3),
    st.lists(st.builds(TokenTime, TIMES, TIMES, st.integers(1, 9), STAGES), max_size=4),
    st.sampled_from([None, plan_of(2), plan_of(5)]),
)


@given(traces=st.lists(st.tuples(TRACES, st.integers(0, 10**6)), max_size=4))
def test_whatever_was_recorded_the_trace_is_valid(traces: list[tuple[RequestTrace, int]]) -> None:
    exported(
        [
            request_run(trace, id=str(number), began=BEGAN + timedelta(microseconds=offset))
            for number, (trace, offset) in enumerate(traces)
        ]
    )


def test_chunks_in_flight_together_are_shown_without_overlaps() -> None:
    events = exported([request_run(prompt_in_chunks())])
    assert [event["name"] for event in events if event.get("cat") in ("prompt", "token") and event["ph"] == "X"] == [
        "prompt",
        "prompt",
        "prompt",
        "first token",
    ]
