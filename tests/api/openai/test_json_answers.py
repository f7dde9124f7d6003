"""Answers that must be JSON: any object, or what a schema says, whole or streamed."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pydantic
import pytest

QUESTION: list[Any] = [{"role": "user", "content": "Name a planet and how many moons it has."}]


class Planet(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    moons: int = pydantic.Field(ge=0, le=200)


FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "planet",
        "strict": True,
        "schema": {**Planet.model_json_schema(), "additionalProperties": False},
    },
}


def test_an_answer_follows_its_schema(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "smollm", "messages": QUESTION, "response_format": FORMAT, "seed": 3}
    answer = client.chat.completions.create(**options, max_tokens=100, n=2)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), FORMAT["json_schema"]["schema"])
    streamed = client.chat.completions.create(**options, max_tokens=100, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == answer.choices[0].message.content


def test_the_clients_own_parsing_gets_its_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="smollm", messages=QUESTION, response_format=Planet, temperature=0, max_tokens=100
    )
    assert isinstance(answer.choices[0].message.parsed, Planet)


def test_any_object_is_parseable(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm",
        prompt='A planet as JSON, {"name": ..., "moons": ...}:\n',
        temperature=0,
        max_tokens=60,
        extra_body={"response_format": {"type": "json_object"}},
    )
    (choice,) = answer.choices
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.text), dict)
    assert choice.text.lstrip().startswith("{")


@pytest.mark.parametrize("schema", [{"type": "no-such-type"}, {"type": "string", "pattern": "("}])
def test_a_schema_that_cannot_be_followed_is_refused(client: openai.OpenAI, schema: dict[str, Any]) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smollm", messages=QUESTION, response_format=wanted)
    assert caught.value.param == "response_format.json_schema.schema"
