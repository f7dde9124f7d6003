"""Tools: offered by the model's template, called when they must be, and rendered back into the conversation."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

from tests.api.openai.conftest import Served

QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/City"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
            "$defs": {"City": {"type": "string", "maxLength": 12}},
        },
    },
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}
CHOSEN: dict[str, Any] = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("tool_choice", ["required", CHOSEN])
def test_a_call_that_must_be_made_follows_its_schema(client: openai.OpenAI, toolsmith: str, tool_choice: Any) -> None:
    answer = client.chat.completions.create(
        model=toolsmith,
        messages=QUESTION,
        tools=[WEATHER],  # type: ignore[list-item]
        tool_choice=tool_choice,
        parallel_tool_calls=False,
        seed=3,
        max_tokens=400,
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.function.name == "get_weather"
    assert call.id.startswith("call_")
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_a_call_is_streamed_piece_by_piece(client: openai.OpenAI, toolsmith: str) -> None:
    options: dict[str, Any] = {
        "model": toolsmith, "messages": QUESTION, "tools": [WEATHER, CLOCK], "tool_choice": CHOSEN,
        "seed": 3, "max_tokens": 400,
    }  # fmt: skip
    whole = client.chat.completions.create(**options).choices[0].message
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**options, stream=True)]
    deltas = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    first, *rest = deltas
    assert first.id and first.type == "function"
    assert first.function is not None and first.function.name == "get_weather"
    assert len(rest) > 3
    assert all(call.id is None and call.index == 0 and call.function is not None for call in rest)
    assert whole.tool_calls is not None and whole.tool_calls[0].type == "function"
    pieces = [call.function.arguments or "" for call in deltas if call.function is not None]
    assert "".join(pieces) == whole.tool_calls[0].function.arguments
    assert chunks[-1].finish_reason == "tool_calls"


def test_the_conversation_with_calls_is_rendered_as_the_template_has_it(
    served: Served, client: openai.OpenAI, toolsmith: str
) -> None:
    arguments = '{"city": "Paris", "unit": "celsius"}'
    made = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    history: list[Any] = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "18 °C, sunny"}]},
    ]
    raw = client.chat.completions.with_raw_response.create(
        model=toolsmith,
        messages=history,
        tools=[WEATHER],  # type: ignore[list-item]
        max_tokens=1,
    )
    controller = served.system.controller
    record = controller.registry.requests.get(int(raw.headers["x-request-id"]))
    prompt = served.system.run(controller.tokenizer(toolsmith)).decode(
        record.prompt_token_ids, skip_special_tokens=False
    )
    assert json.dumps(WEATHER, ensure_ascii=False) in prompt
    assert (
        '<|im_start|>assistant\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "unit": '
        '"celsius"}}\n</tool_call><|im_end|>\n<|im_start|>tool\n18 °C, sunny<|im_end|>' in prompt
    )


def test_tools_that_may_not_be_called_are_not_shown(served: Served, client: openai.OpenAI, toolsmith: str) -> None:
    options: dict[str, Any] = {"model": toolsmith, "messages": QUESTION, "max_tokens": 1}
    without = client.chat.completions.create(**options)
    none = client.chat.completions.create(**options, tools=[WEATHER], tool_choice="none")
    shown = client.chat.completions.create(**options, tools=[WEATHER])
    assert without.usage is not None and none.usage is not None and shown.usage is not None
    assert without.usage.prompt_tokens == none.usage.prompt_tokens < shown.usage.prompt_tokens


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "not a name"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ],
)
def test_tools_that_cannot_be_used_are_refused(
    client: openai.OpenAI, toolsmith: str, change: dict[str, Any], param: str
) -> None:
    body = {"model": toolsmith, "messages": QUESTION, "tools": [WEATHER], **change}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    assert caught.value.param == param
