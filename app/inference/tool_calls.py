"""Calls of tools in a model's answer: the ways in which models write them, read while the text streams in.

Every way is JSON with something around it. Which one a model uses is told by its chat template, which teaches it:

- Hermes, Qwen: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, with text before and between;
- Llama 3: the whole answer is `{"name": …, "parameters": {…}}`, perhaps behind `<|python_tag|>`, several with `;`;
- Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, newer models `[TOOL_CALLS]name[ARGS]{…}`;
- plain: the whole answer is `{"name": …, "arguments": {…}}`, or a list of them.

Marks that are special tokens do not show in the text. So an answer that begins with a call of a known tool counts as
one without its mark, except in the first way, whose marks are ordinary text.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from app.inference.call_scanner import CallScanner

_SPACE = " \t\r\n"
_MARKED, _MARKED_END = "<tool_call>", "</tool_call>"
_NAMED = re.compile(r"([\w.-]{1,64})(?:\[ARGS\])?\s*(?=\{)")


class ToolDialect(StrEnum):
    """How a model writes a call."""

    HERMES = "hermes"
    LLAMA = "llama"
    MISTRAL = "mistral"
    PLAIN = "plain"

    @classmethod
    def of(cls, template: str) -> ToolDialect:
        """The one that a chat template teaches."""
        if _MARKED in template:
            return cls.HERMES
        if "[TOOL_CALLS]" in template:
            return cls.MISTRAL
        if "<|python_tag|>" in template or ('"parameters"' in template and "ipython" in template):
            return cls.LLAMA
        return cls.PLAIN


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


AnswerPart = str | CallBegan | CallArguments
"""A str is text for the reader."""


def open_reader(dialect: ToolDialect, names: Collection[str], most: int | None = None) -> ToolCallReader:
    """What reads the calls out of an answer.

    Args:
        names: of the tools that there are.
        most: calls that are wanted at most; whatever comes after them is dropped.
    """
    return MarkedCalls(names, most) if dialect is ToolDialect.HERMES else BareCalls(dialect, names, most)


class ToolCallReader(ABC):
    """Divides an answer into text and calls while it comes. What may still become a call is held back."""

    def __init__(self, names: Collection[str], most: int | None) -> None:
        self._names, self._most = frozenset(names), most
        self.calls = 0
        """How many are complete."""
        self._text = ""
        """What has come and is not told yet."""
        self._taken = ""
        """What stands for the call that is being read: it is text again, should that be none."""
        self._call: CallScanner | None = None
        self._is_marked = False
        self._is_told = False
        """Whether the reader of the answer knows of the call that is being read."""
        self._waits = False
        """It takes more text to tell what the text is that is there."""

    def feed(self, text: str) -> list[AnswerPart]:
        """Take the next text; what is certain now."""
        self._text += text
        return list(self._read())

    def finish(self) -> list[AnswerPart]:
        """The answer is over: what was held back. A call that was cut short stays as it is."""
        rest = self._text if self._call is None or self._is_told else self._taken + self._text
        self._text, self._call = "", None
        return [rest] if rest and not (self.calls and self._separates(rest)) else []

    @abstractmethod
    def _outside(self) -> Iterator[AnswerPart]:
        """Read on between calls, as far as it is certain what it is."""

    @abstractmethod
    def _separates(self, text: str) -> bool:
        """Whether this stands around calls and is no text for the reader."""

    @abstractmethod
    def _after_call(self) -> None:
        """A call is complete."""

    @abstractmethod
    def _no_call(self) -> None:
        """What was taken for a call is text."""

    def _read(self) -> Iterator[AnswerPart]:
        self._waits = False
        while self._text and not self._waits:
            if self._call is not None:
                yield from self._inside(self._call)
            elif self._most is not None and self.calls >= self._most:
                self._text = ""
            else:
                yield from self._outside()

    def _begin(self, taken: str, rest: str, *, marked: bool, name: str = "") -> None:
        self._call, self._taken, self._text = CallScanner(name), taken, rest
        self._is_marked, self._is_told = marked, False

    def _inside(self, call: CallScanner) -> Iterator[AnswerPart]:
        count = call.feed(self._text)
        self._taken, self._text = self._taken + self._text[:count], self._text[count:]
        known = call.name is not None and (self._is_marked or call.name in self._names)
        if not self._is_told and (call.is_broken or (not known and (call.is_done or call.name is not None))):
            self._text, self._taken, self._call = self._taken + self._text, "", None
            self._no_call()
            return
        if known and not self._is_told and call.name is not None:
            self._is_told, self._taken = True, ""
            yield CallBegan(self.calls, call.name)
        if self._is_told and (arguments := call.take_arguments()):
            yield CallArguments(self.calls, arguments)
        if call.is_done or call.is_broken:
            self.calls += 1
            self._call = None
            self._after_call()


class MarkedCalls(ToolCallReader):
    """Text, and calls between marks."""

    def __init__(self, names: Collection[str], most: int | None = None) -> None:
        super().__init__(names, most)
        self._expects_end = False
        self._skip = 0
        """So many characters are text, though they look like the beginning of a call."""

    def _outside(self) -> Iterator[AnswerPart]:
        if self._expects_end:
            rest = self._text.lstrip(_SPACE)
            self._waits = len(rest) < len(_MARKED_END) and _MARKED_END.startswith(rest)
            if self._waits:
                return
            self._text, self._expects_end = rest.removeprefix(_MARKED_END), False
            return
        start = self._text.find(_MARKED, self._skip)
        if start >= 0:
            text, end = self._text[:start].rstrip(_SPACE), start + len(_MARKED)
            self._begin(self._text[len(text) : end], self._text[end:], marked=True)
        else:
            text = self._text[: max(self._skip, len(self._text) - _held_back(self._text, _MARKED))]
            self._text, self._waits = self._text[len(text) :], True
        self._skip = 0
        if text:
            yield text

    def _after_call(self) -> None:
        self._expects_end = True

    def _no_call(self) -> None:
        self._skip = self._text.index(_MARKED) + len(_MARKED)

    def _separates(self, text: str) -> bool:
        return text.strip(_SPACE) in ("", _MARKED_END)


class BareCalls(ToolCallReader):
    """An answer that begins with calls, or has a mark and then calls; all else is text."""

    def __init__(self, dialect: ToolDialect, names: Collection[str], most: int | None = None) -> None:
        super().__init__(names, most)
        self._mark = {ToolDialect.LLAMA: "<|python_tag|>", ToolDialect.MISTRAL: "[TOOL_CALLS]"}.get(dialect, "")
        self._takes_names = dialect is ToolDialect.MISTRAL
        self._expects_call = True
        self._after_mark = False

    def _outside(self) -> Iterator[AnswerPart]:
        if self._expects_call:
            self._look_for_call()
            return
        start = self._text.find(self._mark) if self._mark else -1
        if start >= 0:
            text = self._text[:start].rstrip(_SPACE)
            self._text = self._text[start + len(self._mark) :]
            self._expects_call = self._after_mark = True
        else:
            text = self._text[: len(self._text) - (_held_back(self._text, self._mark) if self._mark else 0)]
            self._text, self._waits = self._text[len(text) :], True
        if text:
            yield text

    def _look_for_call(self) -> None:
        """Where a call may begin: it does, or what comes is text, or it takes more to tell."""
        at_mark = self._text.lstrip(_SPACE + (",;]" if self.calls else ""))
        if self._mark and at_mark.startswith(self._mark):
            self._text, self._after_mark = at_mark[len(self._mark) :], True
            return
        rest = at_mark.lstrip(_SPACE + "[")
        self._waits = not rest or self._mark.startswith(at_mark)
        if self._waits:
            return
        before = self._text[: len(self._text) - len(rest)]
        if rest[0] == "{":
            self._begin(before, rest, marked=self._after_mark)
            return
        named = _NAMED.match(rest) if self._takes_names else None
        if named is not None and (self._after_mark or named[1] in self._names):
            self._begin(before + named[0], rest[named.end() :], marked=self._after_mark, name=named[1])
        elif self._takes_names and self._may_be_name(rest):
            self._waits = True
        else:
            self._expects_call = self._after_mark = False
            self._text = at_mark if self.calls else self._text

    def _may_be_name(self, text: str) -> bool:
        if self._after_mark:
            return re.fullmatch(r"[\w.-]{1,64}(\[(A(R(G(S(\]\s*)?)?)?)?)?)?", text) is not None
        return any(f"{name}[ARGS]".startswith(text) or text.strip() == name for name in self._names)

    def _after_call(self) -> None:
        self._expects_call = True

    def _no_call(self) -> None:
        self._expects_call = self._after_mark = False

    def _separates(self, text: str) -> bool:
        return not text.strip(_SPACE + ",;]")


def _held_back(text: str, mark: str) -> int:
    """How many characters at the end may be the beginning of a mark, with the space before it."""
    partial = next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
    body = text[: len(text) - partial]
    return len(text) - len(body.rstrip(_SPACE))
