"""Exports of what really happened: two agents, a deployment, requests, and a controller that is still at work."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import jsonschema
import msgspec
import pytest

from app.paths import Home
from app.runs.bottleneck import explain
from app.runs.export import ExportFormat, export_runs
from app.runs.export.jsonl import run_schema
from app.runs.run import Run
from app.runs.telling import tell
from app.runs.waterfall import bars, shares
from app.serving import ServingWish
from tests.e2e.conftest import open_system
from tests.runs.trace_format import checked
from tests.tiny_model import make_model

TOKENS = 24


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Run]]:
    """A long prompt (several chunks), three requests at once, one that failed, the deployment."""
    root = tmp_path_factory.mktemp("system")
    make_model("llama", root / "tiny", max_position_embeddings=4096)
    with open_system(Home(root=root / "home", models=root / "home" / "models").create()) as system:
        nodes = [node.id for node in system.launch(2)]
        system.run(system.controller.add_model(str(root / "tiny"), name="tiny"))
        deployment = system.run(
            system.controller.deploy("tiny", nodes=nodes, serving=ServingWish(context=4096, kv_tokens=8192))
        )
        long = system.answer("tiny", [3 + number % 50 for number in range(2000)], max_tokens=TOKENS, ignore_eos=True)
        several = system.answers("tiny", [[3, 4, 5]] * 3, max_tokens=TOKENS, ignore_eos=True, logprobs=2)
        failed = system.answer("tiny", [9] * 4096, max_tokens=5)
        reader = system.controller.runs
        ids = [record.id for record in (long, *several, failed)]
        yield [*reader.select(ids=ids), reader.deployment(deployment.id)]


def exported(runs: list[Run], format: ExportFormat) -> bytes:
    output = io.BytesIO()
    assert export_runs(runs, format, output) == len(runs)
    return output.getvalue()


def test_json_lines_are_as_the_schema_says_and_come_back_whole(runs: list[Run]) -> None:
    lines = exported(runs, ExportFormat.JSONL).splitlines()
    validator = jsonschema.Draft202012Validator(run_schema())
    for line in lines:
        validator.validate(json.loads(line))
    assert [msgspec.json.decode(line, type=Run) for line in lines] == runs


def test_the_sums_of_the_csv_are_those_of_the_traces(runs: list[Run]) -> None:
    rows = list(csv.DictReader(io.StringIO(exported(runs, ExportFormat.CSV).decode(), newline=""), strict=True))
    tokens = [row for row in rows if row["part"] == "token"]
    traces = [trace for run in runs if (trace := run.request_trace) is not None]
    assert len(tokens) == sum(len(trace.tokens) for trace in traces) == 4 * TOKENS
    for name in ("took_us", "compute_us", "queue_us", "wire_us"):
        whole = sum(getattr(token, name) for trace in traces for token in trace.tokens)
        assert sum(int(row[name]) for row in tokens) == whole
    ids = [token for run in runs if run.request is not None for token in run.request.token_ids]
    assert [int(row["token_id"]) for row in tokens] == ids
    assert any(row["part"] == "prompt" for row in rows)
    assert {row["kind"] for row in rows if row["part"] == "phase"} == {"deployment"}


def test_the_trace_is_valid_and_has_every_token(runs: list[Run]) -> None:
    events = checked(exported(runs, ExportFormat.CHROME))
    assert sum(event["ph"] == "X" and event["cat"] == "token" for event in events) == 4 * TOKENS
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert len(names) == 3, "the controller and two nodes"


def test_the_report_shows_all_of_them(runs: list[Run]) -> None:
    page = exported(runs, ExportFormat.HTML).decode()
    assert page.count('<article class="run"') == len(runs)
    for run in runs:
        assert f">{tell(run).title}</bdi></h2>" in page


def test_what_was_measured_fits_into_the_time_that_passed(runs: list[Run]) -> None:
    for run in runs[:4]:
        trace = run.request_trace
        assert trace is not None
        found = shares(trace)
        assert len(found.stages) == 2
        assert run.completed_at is not None
        assert found.total_us <= (run.completed_at - run.created_at).total_seconds() * 1e6 + 50_000
        # The controller may see the first token late; but all that the stages did was done before it saw the last.
        measured = sum(token.compute_us + token.queue_us for token in trace.tokens)
        assert 0 < found.compute_us + found.queue_us < measured <= found.total_us - found.prepare_us
        assert [bar.token for bar in bars(trace) if bar.token is not None] == list(range(TOKENS))
        assert explain(trace).sentence.endswith(".")


def test_a_request_that_failed_says_why_and_explains_nothing(runs: list[Run]) -> None:
    failed = runs[4]
    assert failed.status == "failed"
    assert failed.error
    trace = failed.request_trace
    assert trace is None or explain(trace).kind == "none"
