"""Calls as markup: the arguments one by one between marks, without quotes.

- Qwen3-Coder, Seed-OSS: `<function=name><parameter=key>value</parameter></function>`
- MiniMax-M2: `<invoke name="name"><parameter name="key">value</parameter></invoke>`
- GLM-4.5: `name<arg_key>key</arg_key><arg_value>value</arg_value>`, up to what ends the call
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.inference.answer_parts import held_back
from app.inference.argument_types import STRING, types_of, value_of
from app.inference.call_scanner import JsonCall

LONGEST_HEAD = 400
"""Characters before a value: what is longer is no call."""
OUTER_ENDS = ("</tool_call>", "</seed:tool_call>", "</minimax:tool_call>")
"""They end a call, and belong to what is around it."""
_SPACE = " \t\r\n"


@dataclass(frozen=True)
class _Form:
    """One way of writing arguments."""

    head: re.Pattern[str]
    """What stands before the arguments; its group is the tool's name."""
    begins: tuple[str, ...]
    """How an argument begins."""
    argument: re.Pattern[str]
    """What stands before a value; its group is the argument's name."""
    value_end: str
    ends: tuple[str, ...]
    """How the call ends; they belong to it."""
    has_breaks: bool = False
    """A value stands on lines of its own: a line break before and after it is not its own."""
    names_only_known: bool = False
    """A name without arguments counts only if there is such a tool."""


_TAGS = _Form(
    head=re.compile(r'<(?:function=|invoke\s+name=)"?([\w.-]{1,64})"?\s*>'),
    begins=("<parameter=", "<parameter name="),
    argument=re.compile(r'<parameter(?:=|\s+name=)"?([^<>"]{1,256})"?\s*>'),
    value_end="</parameter>",
    ends=("</function>", "</invoke>"),
    has_breaks=True,
)
_PAIRS = _Form(
    head=re.compile(r"([\w.-]{1,64})(?=[\s<])"),
    begins=("<arg_key>",),
    argument=re.compile(r"<arg_key>([^<>]{1,256})</arg_key>\s*<arg_value>"),
    value_end="</arg_value>",
    ends=(),
    names_only_known=True,
)


class MarkupCall:
    """Reads a call in one of these ways. Texts stream as they come, all other arguments when they are complete.

    An end of a value counts as one only where another argument or the end of the call follows; else it belongs to
    the value.

    Args:
        tools: name -> JSON schema of the arguments.
    """

    def __init__(self, tools: Mapping[str, Any], *, pairs: bool = False) -> None:
        self.name: str | None = None
        self.is_done = self.is_broken = False
        self._tools, self._form = tools, _PAIRS if pairs else _TAGS
        self._buffer = ""
        self._arguments = ""
        self._called = ""
        """The tool's name, before it is certain that this is a call."""
        self._count = 0
        self._types: frozenset[str] | None = None
        """Of the value that is being read; None between values."""
        self._is_first = False
        """Nothing of the value was given yet."""
        self._looked = 0
        """So many characters of the buffer hold no end of the value."""

    @property
    def leftover(self) -> str:
        return self._buffer if self.is_done or self.is_broken else ""

    def feed(self, text: str) -> int:
        self._buffer += text
        while not (self.is_done or self.is_broken) and self._advance():
            pass
        return len(text)

    def take_arguments(self) -> str:
        arguments, self._arguments = self._arguments, ""
        return arguments

    def finish(self) -> None:
        if self.is_done or self.is_broken or self.name is None:
            return
        if self._types is not None and (end := self._buffer.find(self._form.value_end, self._looked)) >= 0:
            self._end_value(end)
        if self._types is None:
            self._buffer = ""
            self._close()
        else:
            self._arguments += _inside(self._buffer) if self._types == STRING else self._buffer
            self._buffer, self.is_done = "", True

    def _advance(self) -> bool:
        """One thing more; False when it takes more text."""
        if not self._called:
            return self._read_head()
        return self._read_value() if self._types is not None else self._read_between()

    def _read_head(self) -> bool:
        self._buffer = self._buffer.lstrip(_SPACE)
        head = self._form.head.match(self._buffer)
        if head is None:
            self.is_broken = len(self._buffer) > LONGEST_HEAD or not self._may_be_head()
            return False
        self._called, self._buffer = head[1], self._buffer[head.end() :]
        return True

    def _may_be_head(self) -> bool:
        if self._form is _PAIRS:
            return re.fullmatch(r"[\w.-]{0,64}", self._buffer) is not None
        return re.fullmatch(r"<(f\w*(=[\w.-]*)?|i\w*(\s+(n\w*(=\"?[\w.-]*\"?)?)?)?)?\s*", self._buffer) is not None

    def _read_between(self) -> bool:
        rest = self._buffer.lstrip(_SPACE)
        if (begins := self._form.argument.match(rest)) is not None:
            key = begins[1].strip()
            self.name = self._called
            self._is_first = True
            self._types = types_of(key, self._tools.get(self._called))
            self._arguments += f"{', ' if self._count else '{'}{json.dumps(key, ensure_ascii=False)}: "
            self._count += 1
            self._buffer, self._looked = rest[begins.end() :], 0
            if self._types == STRING:
                self._arguments += '"'
            return True
        for end in (*self._form.ends, *OUTER_ENDS):
            if rest.startswith(end):
                if self._form.names_only_known and not self._count and self._called not in self._tools:
                    self.is_broken = True
                    return False
                self.name = self._called
                self._buffer = rest[len(end) :] if end in self._form.ends else rest
                self._close()
                return False
        may_begin = any(rest.startswith(each) or each.startswith(rest) for each in self._form.begins)
        may_end = any(end.startswith(rest) for end in (*self._form.ends, *OUTER_ENDS))
        if len(rest) > LONGEST_HEAD or not (may_begin or may_end):
            self.is_broken = True
            if self.name is not None:
                self._arguments += "}"
        return False

    def _read_value(self) -> bool:
        end = self._buffer.find(self._form.value_end, self._looked)
        if end < 0:
            self._stream()
            return False
        after = self._buffer[end + len(self._form.value_end) :].lstrip(_SPACE)
        follows = (*self._form.begins, *self._form.ends, *OUTER_ENDS)
        if any(after.startswith(each) for each in follows):
            self._end_value(end)
            return True
        if any(each.startswith(after) for each in follows):
            return False
        self._looked = end + len(self._form.value_end)
        return True

    def _stream(self) -> None:
        """Give what is certain of a text: not its last line break, nor what may be the beginning of its end."""
        held = held_back(self._buffer, (self._form.value_end,), "\n")
        certain = self._buffer[: len(self._buffer) - held]
        if self._types == STRING and certain:
            self._arguments += _inside(self._without_break(certain))
            self._buffer, self._looked = self._buffer[len(certain) :], 0

    def _end_value(self, end: int) -> None:
        """The value ends at this place in the buffer."""
        assert self._types is not None
        text, self._buffer = self._without_break(self._buffer[:end]), self._buffer[end + len(self._form.value_end) :]
        if self._form.has_breaks:
            text = text.removesuffix("\n")
        if self._types == STRING:
            self._arguments += _inside(text) + '"'
        else:
            self._arguments += json.dumps(value_of(text, self._types), ensure_ascii=False)
        self._types = None

    def _without_break(self, text: str) -> str:
        """Without the line break that a value begins with, which stands there for looks."""
        first, self._is_first = self._is_first, False
        return text.removeprefix("\n") if first and self._form.has_breaks else text

    def _close(self) -> None:
        self._arguments += "}" if self._count else "{}"
        self.is_done = True


class TaggedCall:
    """What stands in `<tool_call>`: JSON, or one of the kinds of markup; its first character tells which.

    Args:
        tools: name -> JSON schema of the arguments.
    """

    def __init__(self, tools: Mapping[str, Any]) -> None:
        self._tools = tools
        self._call: JsonCall | MarkupCall | None = None

    @property
    def name(self) -> str | None:
        return None if self._call is None else self._call.name

    @property
    def is_done(self) -> bool:
        return self._call is not None and self._call.is_done

    @property
    def is_broken(self) -> bool:
        return self._call is not None and self._call.is_broken

    @property
    def leftover(self) -> str:
        return "" if self._call is None else self._call.leftover

    def feed(self, text: str) -> int:
        start = 0
        if self._call is None:
            start = len(text) - len(text.lstrip(_SPACE))
            if start == len(text):
                return start
            self._call = JsonCall() if text[start] == "{" else MarkupCall(self._tools, pairs=text[start] != "<")
        return start + self._call.feed(text[start:])

    def take_arguments(self) -> str:
        return "" if self._call is None else self._call.take_arguments()

    def finish(self) -> None:
        if self._call is not None:
            self._call.finish()


def _inside(text: str) -> str:
    """A text as it stands between the quotes of JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
