"""OpenAI's histories as chat templates want them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter
from starlette.requests import Request

from app.api.errors import Problem
from app.api.openai.bodies import Message
from app.api.openai.conversation import for_template
from app.api.openai.errors import ApiError, refused
from app.errors import BadInput

MESSAGES = TypeAdapter(list[Message])


def shown(*messages: dict[str, Any], knows_developer: bool = False) -> list[dict[str, Any]]:
    return for_template(MESSAGES.validate_python(messages), knows_developer=knows_developer)


def test_arguments_become_objects_and_null_as_content_is_left_out() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
    assert shown({"role": "assistant", "content": None, "tool_calls": [call]}) == [
        {"role": "assistant", "tool_calls": [{**call, "function": {"name": "f", "arguments": {"a": [1]}}}]}
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"), [("", {}), ("{}", {}), ("not JSON", "not JSON"), ({"a": 1}, {"a": 1})]
)
def test_arguments_that_are_no_json_stay_as_the_model_wrote_them(arguments: Any, expected: Any) -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": arguments}}
    (message,) = shown({"role": "assistant", "tool_calls": [call]})
    assert message["tool_calls"][0]["function"]["arguments"] == expected


def test_parts_of_text_become_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    for role in ("user", "tool", "system"):
        assert shown({"role": role, "content": parts}) == [{"role": role, "content": "one\ntwo"}]


def test_the_older_calls_become_the_newer_ones() -> None:
    older = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    result = {"role": "function", "name": "f", "content": "2"}
    assert shown(older, result) == [
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "name": "f", "content": "2"},
    ]


def test_a_developer_is_the_system_unless_the_template_knows_better() -> None:
    said = {"role": "developer", "content": "Be brief."}
    assert shown(said)[0]["role"] == "system"
    assert shown(said, knows_developer=True)[0]["role"] == "developer"


def test_a_refusal_that_repeats_half_a_character_can_be_sent() -> None:
    """JSON can name one, and UTF-8 cannot: the refusal itself failed."""
    answer = refused("tool_choice names '\ud800'.", "x\ud800").response()
    assert json.loads(bytes(answer.body))["error"]["message"] == "tool_choice names '\\ud800'."
    request = Request({"type": "http", "path": "/v1/models", "headers": [], "method": "GET"})
    told = Problem.of(BadInput("There is no model '\ud800'.")).response(request)
    assert json.loads(bytes(told.body))["error"]["message"] == "There is no model '\\ud800'."


def test_thoughts_and_names_go_to_the_template() -> None:
    said = {"role": "assistant", "content": "Yes.", "reasoning_content": "so", "name": "Bob"}
    assert shown(said) == [said]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": "x", "function_call": {"name": "f"}}, "messages[0].function_call"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0]"),
    ],
)
def test_what_cannot_be_shown_is_named(message: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        shown(message)
    assert caught.value.answer.error.param == param
