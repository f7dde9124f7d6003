"""What a story is told in: texts to read, facts under headings."""

from __future__ import annotations

from dataclasses import dataclass

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Passage:
    """A text to read and copy."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """Facts under a heading."""

    title: str
    facts: Facts
