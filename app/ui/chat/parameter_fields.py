"""The numbers a user may set for a chat: what each is called, how it is read from text, and how it is written back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from app.errors import RequestError
from app.inference.parameters import NEUTRAL
from app.ui.chat.conversation import Options


@dataclass(frozen=True)
class Field:
    """One parameter as a line of text."""

    name: str
    """In Options and in GenerationParameters."""
    label: str
    tip: str
    read: Callable[[str], Any]
    """Raises ValueError."""
    usual: str = ""
    """What an empty text means, in words; by default it is as the model has it."""

    def parse(self, text: str) -> Any:
        """The value; an empty text means what is usual. Raises RequestError."""
        text = text.strip()
        if not text:
            return getattr(Options(), self.name)
        try:
            value = self.read(text)
        except ValueError:
            kind = "a whole number" if self.read is int else "a number"
            raise RequestError(f"“{text}” is not {kind}.", "Write digits, with a point for fractions.") from None
        return None if self.name == "max_tokens" and value == 0 else value

    def text(self, options: Options) -> str:
        value = getattr(options, self.name)
        if value == getattr(Options(), self.name):
            return ""
        return "0" if value is None else _number(value)

    def placeholder(self, defaults: Mapping[str, Any]) -> str:
        """What an empty field means with a model that asks for this."""
        if self.usual:
            return self.usual
        return f"model: {_number(defaults[self.name])}" if self.name in defaults else _number(NEUTRAL[self.name])


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


FIELDS = (
    Field("temperature", "Temperature", "0 always takes the likeliest token; higher is more varied.", float),
    Field("top_p", "Top-p", "Only the likeliest tokens that make up this share.", float),
    Field("top_k", "Top-k", "Only the k likeliest tokens; 0 means all.", int),
    Field("min_p", "Min-p", "Only tokens at least this share as likely as the likeliest.", float),
    Field("repetition_penalty", "Repetition penalty", "Above 1: less of what was there before.", float),
    Field("presence_penalty", "Presence penalty", "Less of what the answer has had.", float, "0"),
    Field("frequency_penalty", "Frequency penalty", "The less, the more often the answer has had it.", float, "0"),
    Field("max_tokens", "Longest answer", "In tokens; 0: as long as the context.", int),
    Field("seed", "Seed", "The same seed gives the same answer; empty: another each time.", int, "random"),
)


def stops_of(text: str) -> tuple[str, ...] | UnsetType:
    """Stop strings, one on a line; \\n and \\t stand for a line's end and a tab. Without any they are the model's."""
    stops = tuple(line.replace("\\n", "\n").replace("\\t", "\t") for line in text.splitlines() if line)
    return stops or UNSET


def variables_of(text: str) -> dict[str, Any]:
    """Variables of a chat template, a JSON object; nothing means none. Raises RequestError."""
    try:
        return msgspec.json.decode(text.strip() or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(f"No JSON object: {error}.", 'Write it as {"enable_thinking": false}.') from error


def variables_text(variables: dict[str, Any]) -> str:
    return json.dumps(variables, ensure_ascii=False) if variables else ""


def stops_text(stops: tuple[str, ...] | UnsetType) -> str:
    if isinstance(stops, UnsetType):
        return ""
    return "\n".join(stop.replace("\n", "\\n").replace("\t", "\\t") for stop in stops)
