"""Answers in channels, as gpt-oss writes them (OpenAI's harmony format).

`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`: what is said in the channel
`analysis` is thinking, in any other it is the answer, and a message `to=functions.NAME` is a call, whose body is the
JSON object of its arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum

from app.inference.answer_parts import AnswerPart, CallArguments, CallBegan, Reasoning, held_back
from app.inference.call_scanner import JsonCall
from app.inference.tool_calls import Tools

MARKS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
ANSWER_AT_ONCE = "<|channel|>final<|message|>"
"""Behind `<|start|>assistant` it leads to an answer without thinking."""
LONGEST_HEADER = 300
"""Characters; what is longer is text."""
_MESSAGE = "<|message|>"
_HEADS = ("<|start|>", "<|channel|>", "<|constrain|>", " to=")
"""What a header begins with."""
_CLOSERS = ("<|end|>", "<|call|>", "<|return|>")
_ENDS = ("<|start|>", "<|channel|>", *_CLOSERS)
"""What a message ends before."""
_RECIPIENT = re.compile(r"to=functions\.([\w.-]{1,64})")
_THINKS = re.compile(r"<\|channel\|>\s*analysis\b")


class _Kind(Enum):
    """Of a message."""

    TEXT = 0
    THINKING = 1
    CALL = 2


class HarmonyReader:
    """Feed the text of one answer, marks and all; then `finish`. Calls are told only where there are tools.

    Args:
        most: calls that are wanted at most; whatever comes after them is dropped.
    """

    def __init__(self, tools: Tools, most: int | None = None) -> None:
        self._tools, self._most = tools, most
        self.calls = 0
        """How many are complete."""
        self.thought: list[tuple[int, int]] = []
        """Where in the answer there is thinking, headers included: from a character, up to another."""
        self._text = ""
        """What has come and is not told yet."""
        self._place = 0
        """Where in the answer it begins."""
        self._in_header = True
        self._message_begin = 0
        self._kind = _Kind.TEXT
        self._taken = ""
        """Of a call that is not told: it is text, should it be none."""
        self._name = ""
        self._call: JsonCall | None = None
        self._is_told = False
        self._said = {_Kind.TEXT: 0, _Kind.THINKING: 0}
        """In how many messages so far."""
        self._is_first = True
        """Nothing of the message was told yet."""

    def feed(self, text: str) -> list[AnswerPart]:
        """Take the next text; what is certain now."""
        self._text += text
        return list(self._wanted(self._advance()))

    def finish(self) -> list[AnswerPart]:
        """The answer is over: what was held back. A header that was cut short is no text."""
        rest = self._take(len(self._text))
        if self._in_header:
            return list(self._wanted(iter([rest] if rest and not rest.startswith(_HEADS[:3]) else [])))
        return list(self._wanted(self._end(rest)))

    def _wanted(self, parts: Iterator[AnswerPart]) -> Iterator[AnswerPart]:
        for part in parts:
            if self._most is None or not isinstance(part, str) or self.calls < self._most:
                yield part

    def _take(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        self._place += count
        return taken

    def _advance(self) -> Iterator[AnswerPart]:
        while self._text:
            if self._in_header and not self._read_header():
                return
            ends = [(place, end) for end in _ENDS if (place := self._text.find(end)) >= 0]
            if not ends:
                yield from self._say(self._take(len(self._text) - held_back(self._text, _ENDS)))
                return
            place, end = min(ends)
            yield from self._end(self._take(place))
            if end in _CLOSERS:
                self._take(len(end))
            self._in_header, self._message_begin = True, self._place

    def _read_header(self) -> bool:
        """Whether a message begins; else it takes more text."""
        if not any(self._text.startswith(head) or head.startswith(self._text) for head in _HEADS):
            self._open(_Kind.TEXT)
            return True
        end = self._text.find(_MESSAGE)
        if end < 0 or end > LONGEST_HEADER:
            if len(self._text) > LONGEST_HEADER:
                self._open(_Kind.TEXT)
                self._taken = self._take(len(_HEADS[0]))  # so that it does not end this message again
            return len(self._text) > LONGEST_HEADER
        header = self._take(end + len(_MESSAGE))
        recipient = _RECIPIENT.search(header)
        if recipient is not None and self._tools and (self._most is None or self.calls < self._most):
            self._open(_Kind.CALL)
            self._name, self._taken = recipient[1], header
        else:
            self._open(_Kind.THINKING if _THINKS.search(header) else _Kind.TEXT)
            self._taken = header if recipient is not None else ""
        return True

    def _open(self, kind: _Kind) -> None:
        self._in_header, self._is_first, self._kind = False, True, kind
        self._taken, self._call, self._is_told = "", JsonCall("?") if kind is _Kind.CALL else None, False

    def _say(self, text: str) -> Iterator[AnswerPart]:
        """More of the message."""
        if self._call is not None:
            yield from self._call_on(text)
            return
        text, self._taken = self._taken + text, ""
        if not text:
            return
        if self._is_first and self._said[self._kind]:
            text = "\n" + text  # messages of one kind stand on lines of their own
        self._said[self._kind] += self._is_first
        self._is_first = False
        yield text if self._kind is _Kind.TEXT else Reasoning(text)

    def _call_on(self, text: str) -> Iterator[AnswerPart]:
        assert self._call is not None
        count = self._call.feed(text)
        if arguments := self._call.take_arguments():
            if not self._is_told:
                self._is_told = True
                yield CallBegan(self.calls, self._name)
            yield CallArguments(self.calls, arguments)
        if not self._is_told:
            self._taken += text[:count]
        if self._call.is_broken or (self._call.is_done and text[count:].strip()):
            self.calls += self._is_told
            self._kind, self._call = _Kind.TEXT, None
            yield from self._say(text[count:])

    def _end(self, text: str) -> Iterator[AnswerPart]:
        """The message ends with this."""
        yield from self._say(text)
        if self._call is not None and not self._is_told:  # a body of nothing but space
            yield CallBegan(self.calls, self._name)
            yield CallArguments(self.calls, "{}")
            self._is_told = True
        self.calls += self._call is not None
        if self._kind is _Kind.THINKING:
            self.thought.append((self._message_begin, self._place))
        self._call = None
