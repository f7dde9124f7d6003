"""Calls whose name stands before a JSON object of arguments, with marks around both.

- DeepSeek V3: `function<｜tool▁sep｜>name`, then the arguments in a block of code
- DeepSeek V3.1: `name<｜tool▁sep｜>{…}`
- Kimi K2: `functions.name:0<|tool_call_argument_begin|>{…}`
"""

from __future__ import annotations

import re

from app.inference.call_scanner import JsonCall

LONGEST_HEAD = 200
"""Characters before the arguments: what is longer is no call."""
_BEGINS = ("<｜tool▁call▁begin｜>", "<|tool_call_begin|>")
_SEPARATORS = ("<｜tool▁sep｜>", "<|tool_call_argument_begin|>")
_NAME = re.compile(r"(?:functions\.)?([\w.-]{1,64}?)(?::\d+)?")
_FENCE = re.compile(r"\s*```(?:json)?\s*$")
_SPACE = " \t\r\n"


class NamedCall:
    """Reads a call in one of these ways, behind the mark of the first or of any call."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._head = ""
        self._json: JsonCall | None = None
        self._is_no_call = False

    @property
    def is_done(self) -> bool:
        return self._json is not None and self._json.is_done

    @property
    def is_broken(self) -> bool:
        return self._is_no_call or (self._json is not None and self._json.is_broken)

    @property
    def leftover(self) -> str:
        return ""

    def feed(self, text: str) -> int:
        if self._json is not None:
            return self._json.feed(text)
        before, brace, _ = text.partition("{")
        self._head += before
        if brace:
            self.name = _name_in(self._head)
            self._is_no_call = self.name is None
            self._json = JsonCall(self.name or "?")
            return len(before) + (0 if self._is_no_call else self._json.feed(text[len(before) :]))
        self._is_no_call = len(self._head) > LONGEST_HEAD
        return len(before)

    def take_arguments(self) -> str:
        return "" if self._json is None else self._json.take_arguments()

    def finish(self) -> None:
        """An object that was cut short stays as it is."""


def _name_in(head: str) -> str | None:
    """The tool's name in what stands before the arguments."""
    for begin in _BEGINS:
        head = head.strip(_SPACE).removeprefix(begin)
    for separator in _SEPARATORS:
        kind, found, name = head.partition(separator)
        if found:
            name = _FENCE.sub("", name).strip(_SPACE)
            match = _NAME.fullmatch(name or kind.strip(_SPACE))
            return None if match is None else match[1]
    return None
