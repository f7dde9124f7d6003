"""CSV of timings: what is in the traces, line by line, the same sums."""

from __future__ import annotations

import csv
import io

from msgspec.structs import replace

from app.runs.export import ExportFormat, export_runs
from app.runs.run import Run
from app.runs.trace import RequestTrace
from tests.runs.samples import deployment_run, job_run, prompt_in_chunks, request_run, trace_of


def exported(runs: list[Run]) -> list[dict[str, str]]:
    output = io.BytesIO()
    assert export_runs(runs, ExportFormat.CSV, output) == len(runs)
    assert not output.closed
    return list(csv.DictReader(io.StringIO(output.getvalue().decode(), newline=""), strict=True))


def test_every_token_has_a_line_and_the_sums_are_those_of_the_trace() -> None:
    trace = trace_of(tokens=40, took_us=10_000, stages=[(0, 4_000), (700, 3_000)])
    lines = exported([request_run(trace)])
    assert [int(line["index"]) for line in lines] == list(range(40))
    assert [line["token_id"] for line in lines] == [str(500 + number) for number in range(40)]
    assert {(line["kind"], line["run"], line["part"]) for line in lines} == {("request", "7", "token")}
    for name in ("at_us", "took_us", "batch", "compute_us", "queue_us", "wire_us"):
        assert sum(int(line[name]) for line in lines) == sum(getattr(token, name) for token in trace.tokens)
    assert sum(int(line["stage_1_queue_us"]) for line in lines) == 40 * 700
    assert {line["stage_1_node"] for line in lines} == {"mini"}


def test_there_are_columns_for_the_widest_run_wherever_it_stands() -> None:
    narrow = request_run(trace_of(tokens=2, took_us=10, stages=[(1, 2)]), id="1")
    wide = request_run(trace_of(tokens=2, took_us=100, stages=[(1, 2), (3, 4), (5, 6)]), id="2")
    lines = exported([narrow, wide, narrow])
    assert all("stage_2_compute_us" in line and None not in line for line in lines)
    assert [line["stage_2_compute_us"] for line in lines] == ["", "", "6", "6", "", ""]


def test_chunks_of_a_prompt_come_before_the_tokens() -> None:
    lines = exported([request_run(prompt_in_chunks())])
    assert [(line["part"], line["prompt_done"]) for line in lines] == [
        ("prompt", "512"),
        ("prompt", "1024"),
        ("prompt", "1536"),
        ("token", ""),
    ]


def test_deployments_and_jobs_have_a_line_for_each_phase() -> None:
    lines = exported([deployment_run(), job_run()])
    assert [(line["kind"], line["name"], line["node"], line["took_us"]) for line in lines] == [
        ("deployment", "sending", "studio", "890000"),
        ("deployment", "loading", "studio", "1100000"),
        ("deployment", "sending", "mini", "1190000"),
        ("deployment", "loading", "mini", "800000"),
        ("job", "writing", "", "4800000"),
    ]


def test_runs_without_times_are_counted_and_bring_no_line() -> None:
    assert exported([request_run(None), request_run(RequestTrace())]) == []


def test_a_name_is_never_a_formula() -> None:
    run = replace(request_run(trace_of(tokens=1, took_us=0, stages=[(0, 1)])), model='=HYPERLINK("http://x","y")')
    [line] = exported([run])
    assert line["model"] == '\'=HYPERLINK("http://x","y")'


def test_names_with_commas_quotes_and_line_feeds_come_back_whole() -> None:
    name = 'a "model", in\ntwo lines'
    run = replace(request_run(trace_of(tokens=2, took_us=5, stages=[(0, 1)])), model=name)
    assert [line["model"] for line in exported([run])] == [name, name]
