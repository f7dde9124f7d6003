"""What chat templates are given besides the conversation: what they read, within bounds, and never what is ours."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import RequestError
from app.inference.chat_template import ChatTemplate
from app.inference.parameters import GenerationParameters
from app.inference.template_variables import MAX_CHARACTERS, MAX_DEPTH, MAX_VARIABLES, refuse_unread, with_effort
from app.models.tokenizer_reading import NAMED_TOKENS

HYBRID = """{%- if not thinking is defined %}{% set thinking = false %}{% endif %}
{%- macro said(message) %}{{ message.content }}{{ custom }}{% endmacro %}
{%- for message in messages %}{% set role = message.role %}{{ role }}{{ said(message) }}{% endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}{% if add_generation_prompt %}{{ bos_token }}{% endif %}
{%- if thinking %}<think>{% endif %}{{ strftime_now('%Y') if dated }}"""


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"x": value}
    return value


def test_a_template_says_which_variables_it_reads() -> None:
    template = ChatTemplate({"default": HYBRID, "tool_use": "{{ only_here }}"}, {})
    ours = {"messages", "tools", "add_generation_prompt", "bos_token", "strftime_now"}
    assert template.variables() - ours == {"thinking", "custom", "dated"}
    assert template.variables(with_tools=True) == {"only_here"}


def test_what_it_does_not_read_is_refused_with_what_it_does() -> None:
    with pytest.raises(RequestError, match=r"enable_thinking has no effect.*it reads custom, dated, thinking"):
        refuse_unread({"enable_thinking": True}, ChatTemplate({"default": HYBRID}, {}).variables())


@pytest.mark.parametrize(
    "name",
    ["messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "raise_exception",
     "self", *NAMED_TOKENS],
)  # fmt: skip
def test_what_is_ours_cannot_be_given(name: str) -> None:
    with pytest.raises(RequestError, match=f"chat_template_kwargs.{name} cannot be given"):
        GenerationParameters(chat_template_kwargs={name: "x"})


@pytest.mark.parametrize(
    "values",
    [
        {"_private": 1},
        {"a b": 1},
        {"": 1},
        {"x" * 65: 1},
        {f"x{index}": 1 for index in range(MAX_VARIABLES + 1)},
        {"x": "y" * MAX_CHARACTERS},
        {"x": nested(MAX_DEPTH + 1)},
        {"x": float("nan")},
        {"x": "\ud800"},
        {"x": {1: 2}},
        {"x": object()},
    ],
)
def test_what_is_too_much_or_no_json_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="chat_template_kwargs"):
        GenerationParameters(chat_template_kwargs=values)


def test_what_is_given_is_recorded_and_read_back() -> None:
    given = {"enable_thinking": False, "documents": [{"title": "a", "text": "b"}], "x": nested(MAX_DEPTH)}
    parameters = GenerationParameters(chat_template_kwargs=given)
    assert GenerationParameters.from_json(parameters.to_json()).chat_template_kwargs == given


@pytest.mark.parametrize(
    ("given", "effort", "read", "thinks", "expected"),
    [
        ({}, None, {"reasoning_effort"}, True, {}),
        ({}, "low", {"reasoning_effort", "enable_thinking"}, True, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "high"}, "low", {"reasoning_effort"}, True, {"reasoning_effort": "high"}),
        ({}, "none", {"enable_thinking"}, True, {"enable_thinking": False}),
        ({}, "high", {"thinking"}, True, {"thinking": True}),
        ({"thinking": False}, "high", {"thinking"}, True, {"thinking": False}),
        ({}, "none", set(), False, {}),
    ],
)
def test_reasoning_effort_goes_as_far_as_the_template_can_follow(
    given: dict[str, Any], effort: str | None, read: set[str], thinks: bool, expected: dict[str, Any]
) -> None:
    assert with_effort(given, effort, frozenset(read), thinks) == expected


@pytest.mark.parametrize(("effort", "thinks"), [("high", False), ("none", True)])
def test_reasoning_effort_that_no_template_can_follow_is_refused(effort: str, thinks: bool) -> None:
    with pytest.raises(RequestError, match="reasoning_effort"):
        with_effort({}, effort, frozenset(), thinks)
