"""Thinking and calls of tools in real answers: a model whose tokens are known, served, asked by OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.api.openai.conftest import Served
from tests.api.openai.scripted_models import make_scripted_model

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "near": {"type": "boolean"}},
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
TOOLS: list[Any] = [WEATHER, CLOCK]
PARIS = '{"city": "Paris", "days": 3}'


@dataclass(frozen=True)
class Way:
    """How a family of models writes thinking and calls."""

    template: str
    scripts: tuple[str, ...]
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    """Tokens of their own that are text."""


THINKER = """
{%- if tools %}{{ '' }}{% endif %}
{%- if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% elif enable_thinking is defined %}<think>
{% endif %}"""
WAYS = {
    "qwen3-coder": Way(
        THINKER + "{#- <tool_call><function=example><parameter=a> #}",
        (
            "Hm.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
            "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=clock>\n</function>\n</tool_call>",
            "so\n</think>\n\nYes.",
            "<think>\nwell</think>No.",
            "endless",
            "<tool_call>none</tool_call>",
        ),
        added=("<tool_call>", "</tool_call>", "<think>", "</think>"),
    ),
    "deepseek-v3": Way(
        "{%- if tools %}{% endif %}{#- <think></think> #}{%- if false %}<｜tool▁call▁begin｜>{% endif %}",
        (
            "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
            '{"city": "Paris", "days": 3}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>clock\n'
            "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        special=(
            "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
        ),
    ),
    "mistral": Way(
        "{%- if tools %}{% endif %}{%- if false %}[TOOL_CALLS][ARGS][THINK]{% endif %}",
        (
            'Hm.[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 3}[TOOL_CALLS]clock[ARGS]{}',
            "[THINK]so[/THINK]Yes.",
        ),
        special=("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"),
    ),
    "gpt-oss": Way(
        "{%- if tools %}{% endif %}<|start|>{{ reasoning_effort }}{%- if false %}<|channel|>{% endif %}"
        "<|start|>assistant",
        (
            "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>commentary<|message|>Hm.<|end|>"
            "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
            '{"city": "Paris", "days": 3}<|call|>',
            "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        ),
        special=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    root, system = tmp_path_factory.mktemp("ways"), served.system
    names = {}
    for name, way in WAYS.items():
        folder = make_scripted_model(root / name, way.template, way.scripts, way.special, way.added)
        system.run(system.controller.add_model(str(folder), name=name))
        system.run(system.controller.deploy(name, nodes=[system.nodes[0].id], context=768, kv_tokens=768))
        names[name] = name
    yield names
    for name in names:
        system.run(system.controller.undeploy(name))


def ask(client: openai.OpenAI, model: str, number: int, **options: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": str(number)}]
    return client.chat.completions.create(
        **{"model": model, "messages": messages, "temperature": 0, "max_tokens": 300, **options}
    )


def streamed(client: openai.OpenAI, model: str, number: int, **options: Any) -> tuple[str, str, list[list[str]], str]:
    """The thinking, the text, each call's id, name and arguments, and why it ended."""
    thinking, content, calls, reason = "", "", [], ""
    for chunk in ask(client, model, number, stream=True, **options):
        (choice,) = chunk.choices
        thinking += getattr(choice.delta, "reasoning_content", None) or ""
        content += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or []:
            if call.id:
                assert call.index == len(calls) and call.type == "function"
                calls.append([call.id, call.function.name, ""])
            calls[call.index][2] += call.function.arguments or ""
    return thinking, content, calls, reason


@pytest.mark.parametrize("way", WAYS)
def test_calls_come_as_such_streamed_and_whole(client: openai.OpenAI, models: dict[str, str], way: str) -> None:
    wanted = [["get_weather", PARIS]] + ([] if way == "gpt-oss" else [["clock", "{}"]])
    message = ask(client, models[way], 0, tools=TOOLS).choices[0].message
    assert [[call.function.name, call.function.arguments] for call in message.tool_calls] == wanted
    assert message.content == "Hm."
    thinking, content, calls, reason = streamed(client, models[way], 0, tools=TOOLS)
    assert ([call[1:] for call in calls], content, reason) == (wanted, "Hm.", "tool_calls")
    assert len({call[0] for call in calls}) == len(calls)
    assert (
        thinking == getattr(message, "reasoning_content", "") == ("so" if way == "gpt-oss" else "") or way != "gpt-oss"
    )


@pytest.mark.parametrize(
    ("way", "options"), [("qwen3-coder", {"enable_thinking": True}), ("mistral", {}), ("gpt-oss", {})]
)
def test_thinking_comes_apart_from_the_answer(
    client: openai.OpenAI, models: dict[str, str], way: str, options: dict[str, Any]
) -> None:
    extra = {"extra_body": {"chat_template_kwargs": options}}
    answer = ask(client, models[way], 1, **extra)
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("so", "Yes.")
    assert streamed(client, models[way], 1, **extra) == ("so", "Yes.", [], "stop")
    thought = {"qwen3-coder": 4, "mistral": 4, "gpt-oss": 13}[way]
    assert answer.usage.completion_tokens_details.reasoning_tokens == thought
