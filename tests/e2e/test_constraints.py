"""Answers that have to follow a grammar: over two agents, with the real model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from app.errors import RequestError
from app.inference.constraint import Constraint
from app.registry import RequestStatus
from tests.e2e.conftest import System

MODEL = "SmolLM2"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
AS_JSON = Constraint("json_schema", json.dumps(SCHEMA))


@pytest.fixture
def deployed(shared: System, sensible: str) -> System:
    assert sensible == MODEL
    return shared


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 5}], ids=["greedy", "sampled"])
def test_an_answer_follows_its_schema_and_ends_with_it(deployed: System, sampling: dict[str, float]) -> None:
    described = {"chat": True, "max_tokens": 200, "constraint": AS_JSON, **sampling}
    runs = [deployed.begin(MODEL, "Describe a person.", **described) for _ in range(2)]
    record, again = (deployed.finish(run) for run in runs)
    assert (record.status, record.finish_reason) == (RequestStatus.COMPLETED, "stop")
    jsonschema.validate(json.loads(record.result), SCHEMA)
    assert again.token_ids == record.token_ids


def test_any_json_object_a_regular_expression_and_a_grammar(deployed: System) -> None:
    as_object = deployed.answer(
        MODEL, "Give JSON with one key.", chat=True, max_tokens=60, constraint=Constraint("json_object")
    )
    if as_object.finish_reason == "stop":
        assert isinstance(json.loads(as_object.result), dict)
    assert as_object.result.lstrip().startswith("{")
    dated = deployed.answer(MODEL, "When?", chat=True, constraint=Constraint("regex", r"[0-9]{4}-[0-9]{2}"))
    assert re.fullmatch(r"\d{4}-\d{2}", dated.result) and dated.finish_reason == "stop"
    chosen = deployed.answer(MODEL, "Yes or no?", chat=True, constraint=Constraint("lark", 'start: "yes" | "no"'))
    assert chosen.result in ("yes", "no")


def test_held_and_free_answers_run_together(deployed: System) -> None:
    free = deployed.answer(MODEL, "What is the capital of France?", chat=True)
    runs = [
        deployed.begin(MODEL, "What is the capital of France?", True, **({} if number % 2 else {"constraint": AS_JSON}))
        for number in range(6)
    ]
    records = [deployed.finish(run) for run in runs]
    assert [record.result for record in records[1::2]] == [free.result] * 3
    for record in records[::2]:
        jsonschema.validate(json.loads(record.result), SCHEMA)


def test_ignoring_the_end_of_text_still_ends_with_the_grammar(deployed: System) -> None:
    record = deployed.answer(
        MODEL, "Yes or no?", chat=True, max_tokens=50, ignore_eos=True, constraint=Constraint("regex", "yes|no")
    )
    assert record.result in ("yes", "no") and record.finish_reason == "stop"


def test_a_grammar_is_checked_before_anything_runs() -> None:
    for constraint, why in (
        (("json_schema", "{"), "is no JSON"),
        (("json_schema", '{"type": "objec"}'), "objec"),
        (("json_schema", "[]"), "an object, not list"),
        (("regex", "(["), "regular expression"),
        (("lark", "start: nowhere"), "nowhere"),
        (("lark", ""), "is empty"),
        (("json_schema", " " * 300_000), "300000 characters"),
    ):
        with pytest.raises(RequestError, match=re.escape(why)):
            Constraint(*constraint)  # type: ignore[arg-type]


def test_a_model_without_a_tokenizer_refuses_that_request_alone(shared: System, tiny: Path) -> None:
    shared.run(shared.controller.add_model(str(tiny), name="tiny"))
    shared.run(shared.controller.deploy("tiny"))
    running = shared.begin("tiny", [3] * 8, max_tokens=120, ignore_eos=True)
    refused = shared.answer("tiny", [3, 4, 5], constraint=AS_JSON)
    assert refused.status is RequestStatus.FAILED and "held to the wanted form" in (refused.error or "")
    assert shared.finish(running).completion_tokens == 120
    shared.run(shared.controller.undeploy("tiny"))
    shared.run(shared.controller.remove_model("tiny"))
