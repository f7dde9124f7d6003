"""What an answer is made of, for those who read it while it comes: text, thinking, calls of tools."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegan:
    """The answer's call number `index` is of this tool."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


AnswerPart = str | Reasoning | CallBegan | CallArguments
"""A str is text for the reader."""


def held_back(text: str, marks: tuple[str, ...], space: str = "") -> int:
    """How many characters at the end may be the beginning of one of `marks`, with the `space` before it."""
    longest = max((len(mark) for mark in marks), default=1) - 1
    partial = next(
        (n for n in range(min(longest, len(text)), 0, -1) if any(mark.startswith(text[-n:]) for mark in marks)), 0
    )
    body = text[: len(text) - partial]
    return len(text) - len(body.rstrip(space)) if space else partial
