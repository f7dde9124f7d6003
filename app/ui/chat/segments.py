"""A model's Markdown, cut into pieces that can be rendered one after the other: prose and blocks of code. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PROSE_CHARACTERS = 3000
"""A piece of prose is cut at the next blank line after so many: rendering one must take a few milliseconds."""
MOST_CHARACTERS = 8000
"""Prose without a blank line is cut at a line's end here."""
CODE_LINES = 150

_FENCE = re.compile(r"^\s{0,12}(`{3,}|~{3,})[ \t]*([^`\n]*)$")


@dataclass(frozen=True)
class Prose:
    text: str


@dataclass(frozen=True)
class Code:
    """A block of code, or the next piece of a long one."""

    text: str
    language: str = ""
    block: int = 0
    """Which of the message's blocks it is."""
    continues: bool = False


Segment = Prose | Code


def segments(markdown: str) -> Iterator[Segment]:
    """The pieces in order. A fence that is never closed holds the rest."""
    prose: list[str] = []
    lines = iter(markdown.splitlines())
    block = 0
    for line in lines:
        fence = _FENCE.match(line)
        if fence is None:
            prose.append(line)
            continue
        yield from _prose(prose)
        prose = []
        yield from _code(_fenced(lines, fence.group(1), len(line) - len(line.lstrip())), fence.group(2).strip(), block)
        block += 1
    yield from _prose(prose)


def code_blocks(markdown: str) -> list[str]:
    """The texts of the blocks of code, whole."""
    blocks: list[str] = []
    for segment in segments(markdown):
        if isinstance(segment, Code):
            if segment.continues:
                blocks[-1] += "\n" + segment.text
            else:
                blocks.append(segment.text)
    return blocks


def _fenced(lines: Iterator[str], mark: str, indent: int) -> list[str]:
    code = []
    for line in lines:
        stripped = line.strip()
        if len(stripped) >= len(mark) and set(stripped) == {mark[0]}:
            break
        own = len(line) - len(line.lstrip())
        code.append(line[min(indent, own) :])
    return code


def _code(lines: list[str], language: str, block: int) -> Iterator[Code]:
    for start in range(0, max(1, len(lines)), CODE_LINES):
        yield Code("\n".join(lines[start : start + CODE_LINES]), language.split(" ")[0], block, start > 0)


def _prose(lines: list[str]) -> Iterator[Prose]:
    piece: list[str] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line) + 1
        # A table or list that is cut at a line's end would fall apart; a blank line ends both well enough.
        if (size > PROSE_CHARACTERS and not line.strip()) or size > MOST_CHARACTERS:
            yield Prose("\n".join(piece))
            piece, size = [], 0
    if any(line.strip() for line in piece):
        yield Prose("\n".join(piece))
