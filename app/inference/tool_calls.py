"""Calls of tools in a model's answer: the ways in which models write them, read while the text streams in.

Which one a model uses is told by its chat template, which teaches it, or shows it calls that were made:

- tagged: `<tool_call>…</tool_call>` with text before and between. Inside it is JSON, as Hermes and Qwen write it
  (`{"name": …, "arguments": {…}}`), or markup, as Qwen3-Coder, Seed-OSS, MiniMax and GLM write it (`markup_call.py`);
- named: DeepSeek V3 and V3.1, Kimi K2: a name and a JSON object between marks (`named_call.py`);
- Llama 3: the whole answer is `{"name": …, "parameters": {…}}`, several with `;`, or `[name(key="value"), …]`, perhaps
  behind `<|python_tag|>`;
- Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, newer models `[TOOL_CALLS]name[ARGS]{…}`;
- harmony: gpt-oss' channels (`harmony.py`);
- plain: the whole answer is `{"name": …, "arguments": {…}}`, or a list of them.

What begins like a call and is none stays text. Marks that are special tokens show in the text (`chat_format.py`), but
models forget them: an answer that begins with a call of a known tool counts as one without its mark, except where
only marks tell calls from text.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.inference.answer_parts import AnswerPart, CallArguments, CallBegan, held_back
from app.inference.call_scanner import CallScanner, JsonCall
from app.inference.markup_call import OUTER_ENDS, MarkupCall, TaggedCall
from app.inference.named_call import NamedCall
from app.inference.python_call import PythonCall

Tools = Mapping[str, Any]
"""The tools that there are: name -> JSON schema of the arguments."""
_SPACE = " \t\r\n"
_NAMED = re.compile(r"([\w.-]{1,64})(?:\[CALL_ID\]\s*\w{1,64}\s*)?(?:\[ARGS\])?\s*(?=\{)")


class ToolDialect(StrEnum):
    """How a model writes a call."""

    TAGGED = "tagged"
    DEEPSEEK = "deepseek"
    KIMI = "kimi"
    LLAMA = "llama"
    MISTRAL = "mistral"
    HARMONY = "harmony"
    PLAIN = "plain"

    @classmethod
    def of(cls, template: str) -> ToolDialect:
        """The one that a chat template teaches."""
        for dialect, marks in _TAUGHT_BY.items():
            if any(mark in template for mark in marks):
                return dialect
        return cls.LLAMA if '"parameters"' in template and "ipython" in template else cls.PLAIN


_TAUGHT_BY: dict[ToolDialect, tuple[str, ...]] = {
    ToolDialect.HARMONY: ("<|channel|>",),
    ToolDialect.DEEPSEEK: ("<｜tool▁call▁begin｜>",),
    ToolDialect.KIMI: ("<|tool_call_begin|>",),
    ToolDialect.MISTRAL: ("[TOOL_CALLS]",),
    ToolDialect.TAGGED: ("<tool_call>", "<seed:tool_call>", "<minimax:tool_call>", "<function="),
    ToolDialect.LLAMA: ("<|python_tag|>",),
}
"""The marks by which a template shows the way."""


@dataclass(frozen=True)
class _Marks:
    """What stands around calls."""

    begins: tuple[str, ...]
    ends: tuple[str, ...]
    scanner: Callable[[Tools], CallScanner]
    """Reads what comes behind one of `begins`."""
    bare: tuple[str, ...] = ()
    """How a call of a known tool begins whose mark was forgotten."""


_AROUND: dict[ToolDialect, _Marks] = {
    ToolDialect.TAGGED: _Marks(
        begins=("<tool_call>", "<seed:tool_call>", "<minimax:tool_call>"),
        ends=OUTER_ENDS,
        scanner=TaggedCall,
        bare=("<function=", "<invoke name="),
    ),
    ToolDialect.DEEPSEEK: _Marks(
        begins=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        ends=("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        scanner=lambda tools: NamedCall(),
    ),
    ToolDialect.KIMI: _Marks(
        begins=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        ends=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
        scanner=lambda tools: NamedCall(),
    ),
}
_BARE_MARKS = {ToolDialect.LLAMA: ("<|python_tag|>",), ToolDialect.MISTRAL: ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")}
_INNER_MARKS = {
    ToolDialect.DEEPSEEK: ("<｜tool▁sep｜>",),
    ToolDialect.KIMI: ("<|tool_call_argument_begin|>",),
}


def marks_of(dialect: ToolDialect) -> tuple[str, ...]:
    """All that a reader of this way has to see, though it may be special tokens."""
    around = _AROUND.get(dialect)
    return (
        *(() if around is None else (*around.begins, *around.ends)),
        *_INNER_MARKS.get(dialect, ()),
        *_BARE_MARKS.get(dialect, ()),
    )


def open_reader(dialect: ToolDialect, tools: Tools, most: int | None = None) -> ToolCallReader:
    """What reads the calls out of an answer; not for harmony, whose calls are channels (`harmony.py`).

    Args:
        most: calls that are wanted at most; whatever comes after them is dropped.
    """
    around = _AROUND.get(dialect)
    return BareCalls(dialect, tools, most) if around is None else MarkedCalls(around, tools, most)


class ToolCallReader(ABC):
    """Divides an answer into text and calls while it comes. What may still become a call is held back."""

    def __init__(self, tools: Tools, most: int | None) -> None:
        self._tools, self._most = tools, most
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
        self._skip = 0
        """So many characters are text, though they look like the beginning of a call."""

    def feed(self, text: str) -> list[AnswerPart]:
        """Take the next text; what is certain now."""
        self._text += text
        return list(self._read())

    def finish(self) -> list[AnswerPart]:
        """The answer is over: what was held back. A call that was cut short stays as it is."""
        parts: list[AnswerPart] = []
        rest = self._text
        if self._call is not None and self._is_told:
            self._call.finish()
            if arguments := self._call.take_arguments():
                parts.append(CallArguments(self.calls, arguments))
            self.calls += 1
        elif self._call is not None:
            rest = self._taken + self._text
        self._text, self._call = "", None
        if self._most is not None and self.calls >= self._most:
            return parts
        return [*parts, rest] if rest and not (self.calls and self._separates(rest)) else parts

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

    def _begin(self, scanner: CallScanner, taken: str, mark: str, rest: str, *, marked: bool) -> None:
        """A call may begin here, behind `taken`, which ends with the mark that says so, if there is one."""
        self._call, self._taken, self._text = scanner, taken, rest
        self._skip = len(taken) if mark else len(taken) + 1
        self._is_marked, self._is_told = marked, False

    def _inside(self, call: CallScanner) -> Iterator[AnswerPart]:
        count = call.feed(self._text)
        self._taken, self._text = self._taken + self._text[:count], self._text[count:]
        known = call.name is not None and (self._is_marked or call.name in self._tools)
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
            self._call, self._text, self._skip = None, call.leftover + self._text, 0
            self._after_call()


class MarkedCalls(ToolCallReader):
    """Text, and calls between marks."""

    def __init__(self, around: _Marks, tools: Tools, most: int | None = None) -> None:
        super().__init__(tools, most)
        self._around = around
        self._expects_end = self._is_ended = False

    def _outside(self) -> Iterator[AnswerPart]:
        if self._expects_end:
            self._pass_end()
            return
        marks = (*self._around.begins, *self._around.bare)
        found = [(start, mark) for mark in marks if (start := self._text.find(mark, self._skip)) >= 0]
        if found:
            start, mark = min(found)
            is_bare = mark in self._around.bare
            text, end = self._text[:start].rstrip(_SPACE), start + len(mark)
            body = start if is_bare else end
            scanner = MarkupCall(self._tools) if is_bare else self._around.scanner(self._tools)
            self._begin(scanner, self._text[len(text) : body], mark, self._text[body:], marked=not is_bare)
            self._skip = end - len(text)
        else:
            text = self._text[: max(self._skip, len(self._text) - held_back(self._text, marks, _SPACE))]
            self._text, self._waits, self._skip = self._text[len(text) :], True, 0
        if text:
            yield text

    def _pass_end(self) -> None:
        """What ends a call, and all calls together; the space before it belongs to it."""
        rest = self._text.lstrip(_SPACE)
        for end in self._around.ends:
            if rest.startswith(end):
                self._text, self._is_ended = rest[len(end) :], True
                return
        self._waits = any(end.startswith(rest) for end in self._around.ends)
        if not self._waits:
            self._text = self._text if self._is_ended else rest
            self._expects_end = self._is_ended = False

    def _after_call(self) -> None:
        self._expects_end, self._is_ended = True, False

    def _no_call(self) -> None:
        """The mark is text, and what comes behind it is looked at anew."""

    def _separates(self, text: str) -> bool:
        for end in self._around.ends:
            text = text.strip(_SPACE).removeprefix(end)
        return not text.strip(_SPACE)


class BareCalls(ToolCallReader):
    """An answer that begins with calls, or has a mark and then calls; all else is text."""

    def __init__(self, dialect: ToolDialect, tools: Tools, most: int | None = None) -> None:
        super().__init__(tools, most)
        self._mark = next(iter(_BARE_MARKS.get(dialect, ())), "")
        self._takes_names = dialect is ToolDialect.MISTRAL
        self._expects_call = True
        self._after_mark = False

    def _outside(self) -> Iterator[AnswerPart]:
        if self._expects_call:
            self._look_for_call()
            return
        start = self._text.find(self._mark, self._skip) if self._mark else -1
        if start >= 0:
            text = self._text[:start].rstrip(_SPACE)
            self._expects_call = True
        else:
            held = held_back(self._text, (self._mark,), _SPACE) if self._mark else 0
            text = self._text[: max(self._skip, len(self._text) - held)]
            self._waits = True
        self._text, self._skip = self._text[len(text) :], 0
        if text:
            yield text

    def _look_for_call(self) -> None:
        """Where a call may begin: it does, or what comes is text, or it takes more to tell."""
        at_mark = self._text.lstrip(_SPACE + (",;]" if self.calls else ""))
        is_marked = bool(self._mark) and at_mark.startswith(self._mark)
        rest = at_mark[len(self._mark) :] if is_marked else at_mark
        call = rest.lstrip(_SPACE + "[")
        self._waits = not call or (not is_marked and self._mark.startswith(at_mark))
        if self._waits:
            return
        marked = is_marked or self._after_mark
        before = self._text[: len(self._text) - len(call)]
        named = _NAMED.match(call) if self._takes_names else None
        python = not self._takes_names and (marked or self.calls > 0 or "[" in before)
        if call[0] == "{":
            self._begin(JsonCall(), before, "", call, marked=marked)
        elif named is not None and (marked or named[1] in self._tools):
            self._begin(JsonCall(named[1]), before + named[0], "", call[named.end() :], marked=marked)
        elif python and any(call.startswith(f"{name}(") for name in self._tools):
            self._begin(PythonCall(), before, "", call, marked=False)
        elif (self._takes_names and self._may_be_name(call, marked)) or (
            python and any(f"{name}(".startswith(call) for name in self._tools)
        ):
            self._waits = True
        else:
            self._expects_call = self._after_mark = False
            self._text = at_mark if self.calls else self._text
            self._skip = len(self._text) - len(rest)
            return
        self._after_mark = marked

    def _may_be_name(self, text: str, marked: bool) -> bool:
        """Whether a name and a brace, with marks between them, may still come of it."""
        if not marked:
            return any(f"{name}[ARGS]".startswith(text) or text.strip() == name for name in self._tools)
        name = re.match(r"[\w.-]{1,64}", text)
        rest = "" if name is None else re.sub(r"^\[CALL_ID\]\s*\w{0,64}\s*", "", text[name.end() :])
        return name is not None and any(mark.startswith(rest.rstrip()) for mark in ("[CALL_ID]", "[ARGS]"))

    def _after_call(self) -> None:
        self._expects_call = True

    def _no_call(self) -> None:
        self._expects_call = self._after_mark = False

    def _separates(self, text: str) -> bool:
        return not text.strip(_SPACE + ",;]")
