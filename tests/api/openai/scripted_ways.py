"""How two families of models write thinking and calls, as scripts for models whose tokens are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


SHOWN = "{%- for tool in tools or [] %}{{ tool.function.name }} {% endfor %}"
THINKER = """
{%- if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% elif enable_thinking is defined %}<think>
{% endif %}"""
WAYS = {
    "qwen3-coder": Way(
        SHOWN + THINKER + "{%- if false %}<tool_call><function=example><parameter=a>{% endif %}",
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
    "gpt-oss": Way(
        SHOWN + "<|start|>{{ reasoning_effort }}{%- if false %}<|channel|>{% endif %}"
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
