"""How a model's answers are written: where it thinks, how it calls tools. Observed from its chat template.

A template is the model's own account of its marks: it writes them itself, shows them, or looks for them in what was
said before. Marks are often special tokens, which an answer does not show otherwise; `shown` says which must.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.inference import harmony
from app.inference.answer_parts import AnswerPart, Reasoning
from app.inference.thinking import KNOWN_MARKS, ThinkingMarks, ThinkingReader
from app.inference.tokenizer import Tokenizer
from app.inference.tool_calls import ToolCallReader, ToolDialect, Tools, marks_of, open_reader


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Of one model, and of one answer: `after` says how the prompt has begun it."""

    dialect: ToolDialect
    thinking: ThinkingMarks | None = None
    """None where it is not known to think, and in harmony, which has channels for that."""
    is_open: bool = False
    """The prompt has ended within the thinking."""

    @classmethod
    def of(cls, template: str, token_texts: Collection[str] = ()) -> ChatFormat:
        """The one that a chat template shows.

        Args:
            token_texts: tokens that were added to the vocabulary. Some models' templates leave thinking to the model.
        """
        dialect = ToolDialect.of(template)
        if dialect is ToolDialect.HARMONY:
            return cls(dialect)
        shown = (marks for marks in KNOWN_MARKS if marks.begin in template or marks.end in template)
        known = (marks for marks in KNOWN_MARKS if marks.begin in token_texts and marks.end in token_texts)
        return cls(dialect, next(shown, None) or next(known, None))

    @property
    def thinks(self) -> bool:
        """Whether it is known how it marks its thinking."""
        return self.thinking is not None or self.dialect is ToolDialect.HARMONY

    def after(self, prompt: str) -> ChatFormat:
        """Of the answer to this prompt, the chat template's text."""
        return replace(self, is_open=self.thinking is not None and prompt.rstrip().endswith(self.thinking.begin))

    def without_thinking(self, prompt: str) -> str:
        """What ends the thinking that a prompt has begun, or would begin: behind it the answer comes at once."""
        if self.dialect is ToolDialect.HARMONY:
            return harmony.ANSWER_AT_ONCE if prompt.endswith("<|start|>assistant") else ""
        if self.thinking is None or not self.after(prompt).is_open:
            return ""
        return f"\n{self.thinking.end}\n\n" if prompt.endswith("\n") else self.thinking.end

    def shown(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The special tokens that an answer has to show, since they are marks."""
        marks = {*(harmony.MARKS if self.dialect is ToolDialect.HARMONY else marks_of(self.dialect))}
        if self.thinking is not None:
            marks |= {self.thinking.begin, self.thinking.end}
        ids = (tokenizer.id_of(mark) for mark in marks)
        return frozenset(index for index in ids if index is not None and index in tokenizer.special_ids)

    def reader(self, tools: Tools | None = None, most: int | None = None) -> AnswerReader:
        """What divides the answer while it comes.

        Args:
            tools: those that may be called; None leaves calls in the text.
            most: calls that are wanted at most.
        """
        return AnswerReader(self, tools, most)


class AnswerReader:
    """Divides the text of one answer into thinking, text and calls. However the text is cut, the parts are the same."""

    def __init__(self, format: ChatFormat, tools: Tools | None, most: int | None) -> None:
        self._thinking: ThinkingReader | None = None
        self._calls: ToolCallReader | None = None
        self._harmony: harmony.HarmonyReader | None = None
        if format.dialect is ToolDialect.HARMONY:
            self._harmony = harmony.HarmonyReader(tools or {}, most)
            return
        if format.thinking is not None:
            self._thinking = ThinkingReader(format.thinking, is_open=format.is_open)
        if tools is not None:
            self._calls = open_reader(format.dialect, tools, most)

    def feed(self, text: str) -> list[AnswerPart]:
        """Take the next text; what is certain now."""
        if self._harmony is not None:
            return self._harmony.feed(text)
        return self._read([text] if self._thinking is None else self._thinking.feed(text))

    def finish(self) -> list[AnswerPart]:
        """The answer is over: what was held back."""
        if self._harmony is not None:
            return self._harmony.finish()
        parts = self._read([] if self._thinking is None else self._thinking.finish())
        return parts if self._calls is None else [*parts, *self._calls.finish()]

    @property
    def thought(self) -> Sequence[tuple[int, int]]:
        """Where in the answer there is thinking, marks included: from a character, up to another."""
        if self._harmony is not None:
            return self._harmony.thought
        return [] if self._thinking is None or not self._thinking.thought else [(0, self._thinking.thought)]

    def _read(self, parts: Sequence[AnswerPart]) -> list[AnswerPart]:
        if self._calls is None:
            return list(parts)
        read: list[AnswerPart] = []
        for part in parts:
            read += self._calls.feed(part) if isinstance(part, str) else [part]
        return read


def divided(parts: Sequence[AnswerPart]) -> tuple[str, str]:
    """The thinking and the text among an answer's parts."""
    thinking = "".join(part.text for part in parts if isinstance(part, Reasoning))
    return thinking, "".join(part for part in parts if isinstance(part, str))


def tools_by_name(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tools as the OpenAI API has them: name -> JSON schema of the arguments."""
    functions = [tool["function"] for tool in tools]
    return {function["name"]: function.get("parameters") or {} for function in functions}
