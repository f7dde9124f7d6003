"""Calls of tools read out of answers as models write them, however the text was divided on its way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.inference.answer_parts import AnswerPart, CallArguments, CallBegan
from app.inference.tool_calls import ToolDialect, open_reader

HERMES, LLAMA, MISTRAL, PLAIN = ToolDialect.TAGGED, ToolDialect.LLAMA, ToolDialect.MISTRAL, ToolDialect.PLAIN
NAMES: dict[str, Any] = {"weather": None, "time": None}
Calls = list[tuple[str, str]]


def read(dialect: ToolDialect, answer: str, step: int, most: int | None = None) -> tuple[str, Calls]:
    """The text and the calls of an answer that comes in pieces of `step` characters."""
    reader = open_reader(dialect, NAMES, most)
    parts: list[AnswerPart] = []
    for start in range(0, len(answer), step):
        parts += reader.feed(answer[start : start + step])
    parts += reader.finish()
    calls: list[list[str]] = []
    for part in parts:
        if isinstance(part, CallBegan):
            assert part.index == len(calls)
            calls.append([part.name, ""])
        elif isinstance(part, CallArguments):
            assert part.index == len(calls) - 1
            calls[-1][1] += part.text
    text = "".join(part for part in parts if isinstance(part, str))
    return text, [(name, arguments) for name, arguments in calls]


EXAMPLES: list[tuple[ToolDialect, str, str, Calls]] = [
    # Hermes: text, calls, marks
    (
        HERMES,
        'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "}\\"{"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "other", "arguments": {"b": [1, {}]}}\n</tool_call>',
        "Let me see.",
        [("weather", '{"city": "}\\"{"}'), ("other", '{"b": [1, {}]}')],
    ),
    (HERMES, '<tool_call>{"arguments": {"x": 1}, "name": "time"}</tool_call>', "", [("time", '{"x": 1}')]),
    (HERMES, '<tool_call>{"name": "time", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [("time", '{"x": 1}')]),
    (HERMES, '<tool_call>{"name": "time", "arguments": null}</tool_call>', "", [("time", "{}")]),
    (HERMES, '<tool_call>{"name": "time"}</tool_call> bye', " bye", [("time", "{}")]),
    (HERMES, '<tool_call>{"name": "time", "arguments": {"x": ', "", [("time", '{"x": ')]),
    (HERMES, "a < b, <tool and <tool_call>no</tool_call> more", "a < b, <tool and <tool_call>no</tool_call> more", []),
    (HERMES, '{"name": "time", "arguments": {}}', '{"name": "time", "arguments": {}}', []),
    (HERMES, "just text \n", "just text \n", []),
    # Llama 3: the whole answer, with the mark as text or, as a special token, not shown
    (
        LLAMA,
        '{"name": "weather", "parameters": {"a": 1}}; {"name": "time", "parameters": {}}',
        "",
        [("weather", '{"a": 1}'), ("time", "{}")],
    ),
    (LLAMA, '<|python_tag|>{"name": "other", "parameters": {"a": 1}}', "", [("other", '{"a": 1}')]),
    (LLAMA, '{"type": "function", "name": "time", "parameters": {"a": 1} }', "", [("time", '{"a": 1}')]),
    (LLAMA, '{"answer": 42} is the answer', '{"answer": 42} is the answer', []),
    (LLAMA, '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', []),
    (LLAMA, "hello <|py there", "hello <|py there", []),
    # Mistral, older and newer
    (
        MISTRAL,
        '[TOOL_CALLS][{"name": "weather", "arguments": {"a": 1}}, {"name": "time", "arguments": {}}]',
        "",
        [("weather", '{"a": 1}'), ("time", "{}")],
    ),
    (MISTRAL, '[{"name": "weather", "arguments": {"a": 1}}]', "", [("weather", '{"a": 1}')]),
    (
        MISTRAL,
        '[TOOL_CALLS]other[ARGS]{"a": 1}[TOOL_CALLS]time[ARGS]{"a": 2}',
        "",
        [("other", '{"a": 1}'), ("time", '{"a": 2}')],
    ),
    (MISTRAL, 'time{"a": 1}weather{"b": 2}', "", [("time", '{"a": 1}'), ("weather", '{"b": 2}')]),
    (MISTRAL, 'Sure. [TOOL_CALLS] [{"name": "time", "arguments": {"a": 1}}]', "Sure.", [("time", '{"a": 1}')]),
    (MISTRAL, "weather is nice", "weather is nice", []),
    (MISTRAL, "[see here] ok", "[see here] ok", []),
    # plain
    (PLAIN, '[{"name": "time", "arguments": {"a": 1}}]', "", [("time", '{"a": 1}')]),
    (PLAIN, ' {"name": "time", "arguments": {}} and text', "and text", [("time", "{}")]),
    (PLAIN, ' {"name', ' {"name', []),
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("dialect", "answer", "text", "calls"), EXAMPLES)
def test_text_and_calls_are_told_apart(dialect: ToolDialect, answer: str, text: str, calls: Calls, step: int) -> None:
    assert read(dialect, answer, step) == (text, calls)


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_what_comes_after_the_calls_that_are_wanted_is_dropped(step: int) -> None:
    answer = EXAMPLES[0][1]
    assert read(HERMES, answer, step, most=1) == ("Let me see.", [("weather", '{"city": "}\\"{"}')])


def test_arguments_are_told_before_the_call_is_complete() -> None:
    reader = open_reader(HERMES, NAMES)
    assert reader.feed('<tool_call>{"name": "time", "argu') == [CallBegan(0, "time")]
    assert reader.feed('ments": {"zone": "U') == [CallArguments(0, '{"zone": "U')]
    assert reader.feed('TC"}}</tool_call>') == [CallArguments(0, 'TC"}')]


def test_text_is_told_as_soon_as_it_cannot_become_a_call() -> None:
    reader = open_reader(HERMES, NAMES)
    assert reader.feed("one ") == ["one"]
    assert reader.feed("two <to") == [" two"]
    assert reader.feed("ad") == [" <toad"]


@pytest.mark.parametrize(
    ("template", "dialect"),
    [
        ("For each call return <tool_call></tool_call> with {{ tools }}", HERMES),
        ("{{- '[TOOL_CALLS]' }}", MISTRAL),
        ("{{- '<|python_tag|>' + tool_call.name }}", LLAMA),
        ('Environment: ipython, respond with {"name": name, "parameters": dict}', LLAMA),
        ("{{ tools | tojson }}", PLAIN),
    ],
)
def test_the_way_of_writing_calls_is_the_templates(template: str, dialect: ToolDialect) -> None:
    assert ToolDialect.of(template) is dialect


def test_any_json_survives_as_arguments() -> None:
    value: Any
    for value in ({"a": '\\" } ] {', "b": [[], {}], "ü": None}, [1, [2]], {}, {"name": "no", "arguments": {"x": 1}}):
        text = json.dumps(value)
        assert read(HERMES, f'<tool_call>{{"name": "time", "arguments": {text}}}</tool_call>', 1) == (
            "",
            [("time", text)],
        )
