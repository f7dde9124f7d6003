"""JSON Lines: whole runs, a line each, as the schema says."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import jsonschema
import msgspec
import pytest
from msgspec.structs import replace

from app.runs.export import ExportFormat, export_runs
from app.runs.export.jsonl import run_schema, schema_text
from app.runs.run import VERSION, Run
from app.runs.trace import TokenLogprob
from tests.runs.samples import deployment_run, job_run, prompt_in_chunks, request_run, trace_of

SCHEMA = Path(__file__).resolve().parent.parent.parent / "docs" / "schemas" / f"run-{VERSION}.json"
RUNS = [
    request_run(
        trace_of(tokens=3, took_us=10_000, stages=[(0, 4_000), (10, 3_000)]), prompt="zwei\nZeilen, „quoted“ 🎈"
    ),
    request_run(prompt_in_chunks(), id="8"),
    request_run(None, id="9", status="failed", error="mini is gone."),
    deployment_run(),
    job_run(),
]


def lines_of(runs: list[Run]) -> list[bytes]:
    output = io.BytesIO()
    assert export_runs(runs, ExportFormat.JSONL, output) == len(runs)
    assert output.getvalue().endswith(b"\n")
    return output.getvalue().splitlines()


def test_the_schema_in_the_documentation_is_that_of_the_types() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "run: python docs/schemas/make.py"


def test_every_kind_of_run_is_as_the_schema_says() -> None:
    validator = jsonschema.Draft202012Validator(run_schema())
    validator.check_schema(run_schema())
    for line in lines_of(RUNS):
        validator.validate(json.loads(line))


@pytest.mark.parametrize(
    ("name", "value"), [("kind", "meal"), ("id", 7), ("trace", {"kind": "request", "tokens": [[1, "soon", 1, []]]})]
)
def test_the_schema_refuses_what_is_no_run(name: str, value: object) -> None:
    line = json.loads(lines_of(RUNS)[0])
    line[name] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(run_schema()).validate(line)


def test_a_line_gives_the_same_run_back() -> None:
    assert [msgspec.json.decode(line, type=Run) for line in lines_of(RUNS)] == RUNS


def test_the_logarithm_of_zero_is_a_number_all_the_same() -> None:
    trace = trace_of(tokens=1, took_us=0, stages=[(0, 1)])
    endless = TokenLogprob(5, -math.inf, ((5, -math.inf), (6, -0.5)))
    run = request_run(replace(trace, logprobs=(endless,), prompt_logprobs=(None, endless)))
    [line] = lines_of([run])
    jsonschema.Draft202012Validator(run_schema()).validate(json.loads(line))
    assert json.loads(line)["trace"]["logprobs"] == [[5, -9999.0, [[5, -9999.0], [6, -0.5]]]]
    assert json.loads(line)["trace"]["prompt_logprobs"][1][1] == -9999.0
