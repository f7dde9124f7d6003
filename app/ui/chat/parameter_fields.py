"""The numbers a user may set for a chat: what each is called, how it is read from text, and how it is written back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from app.errors import RequestError
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
    placeholder: str = ""

    def parse(self, text: str) -> Any:
        """The value; an empty text means the default. Raises RequestError."""
        text = text.strip()
        if not text:
            return getattr(Options(), self.name) if not self.placeholder else None
        try:
            return self.read(text)
        except ValueError:
            kind = "a whole number" if self.read is int else "a number"
            raise RequestError(f"“{text}” is not {kind}.", "Write digits, with a point for fractions.") from None

    def text(self, options: Options) -> str:
        value = getattr(options, self.name)
        if value is None:
            return ""
        return f"{value:g}" if isinstance(value, float) else str(value)


FIELDS = (
    Field("temperature", "Temperature", "0 always takes the likeliest token; higher is more varied.", float),
    Field("top_p", "Top-p", "Only the likeliest tokens that make up this share.", float),
    Field("top_k", "Top-k", "Only the k likeliest tokens; 0 means all.", int),
    Field("min_p", "Min-p", "Only tokens at least this share as likely as the likeliest.", float),
    Field("repetition_penalty", "Repetition penalty", "Above 1: less of what was there before.", float),
    Field("presence_penalty", "Presence penalty", "Less of what the answer has had.", float),
    Field("frequency_penalty", "Frequency penalty", "The less, the more often the answer has had it.", float),
    Field("max_tokens", "Longest answer", "In tokens; empty: as long as the context.", int, "as the context"),
    Field("seed", "Seed", "The same seed gives the same answer; empty: another each time.", int, "random"),
)


def stops_of(text: str) -> tuple[str, ...]:
    """Stop strings, one on a line; \\n and \\t stand for a line's end and a tab."""
    return tuple(line.replace("\\n", "\n").replace("\\t", "\t") for line in text.splitlines() if line)


def variables_of(text: str) -> dict[str, Any]:
    """Variables of a chat template, a JSON object; nothing means none. Raises RequestError."""
    try:
        return msgspec.json.decode(text.strip() or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(f"No JSON object: {error}.", 'Write it as {"enable_thinking": false}.') from error


def variables_text(variables: dict[str, Any]) -> str:
    return json.dumps(variables, ensure_ascii=False) if variables else ""


def stops_text(stops: tuple[str, ...]) -> str:
    return "\n".join(stop.replace("\n", "\\n").replace("\t", "\\t") for stop in stops)
