"""What a model thinks before it answers, told apart from the answer while both come.

Thinking stands at the beginning of an answer, between marks; many chat templates write the first mark themselves, so
that only the second one comes. The space around marks belongs to neither side. Marks further on are text: the answer
may be about them.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.inference.answer_parts import AnswerPart, Reasoning, held_back

_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class ThinkingMarks:
    """What stands around thinking."""

    begin: str
    end: str


KNOWN_MARKS = (
    ThinkingMarks("<seed:think>", "</seed:think>"),
    ThinkingMarks("[THINK]", "[/THINK]"),
    ThinkingMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkingMarks("<think>", "</think>"),
    ThinkingMarks("<thought>", "</thought>"),
    ThinkingMarks("<thinking>", "</thinking>"),
    ThinkingMarks("<reasoning>", "</reasoning>"),
    ThinkingMarks("◁think▷", "◁/think▷"),
)
"""Seed-OSS, Magistral, Command A, most others, EXAONE Deep, fine-tunes, Kimi."""


class ThinkingReader:
    """Feed the text of one answer; then `finish`.

    Args:
        is_open: the prompt has ended within the thinking.
    """

    def __init__(self, marks: ThinkingMarks, *, is_open: bool) -> None:
        self._marks = marks
        self._is_open = is_open
        self._began = False
        """It is thinking; the beginning is read."""
        self._ended = False
        """It is the answer."""
        self._skips_space = False
        self._text = ""
        self._length = 0
        self.thought = 0
        """How many characters of the answer, marks included, are thinking."""

    def feed(self, text: str) -> list[AnswerPart]:
        """Take the next text; what is certain now."""
        self._text += text
        self._length += len(text)
        parts: list[AnswerPart] = []
        if not self._began and not self._ended:
            self._begin()
        if self._began and not self._ended:
            self._think(parts)
        if self._ended:
            if self._skips_space:
                self._text = self._text.lstrip(_SPACE)
                self._skips_space = not self._text
            if self._text:
                parts.append(self._text)
                self._text = ""
        return parts

    def finish(self) -> list[AnswerPart]:
        """The answer is over. Thinking that never ended is thinking to its last word."""
        text, self._text = self._text, ""
        if self._began and not self._ended:
            self.thought = self._length
            text = text.rstrip(_SPACE)
            return [Reasoning(text)] if text else []
        if self._is_open and not self._ended:  # a part of the first mark, or nothing
            self.thought = self._length
            return [Reasoning(text)] if text.strip(_SPACE) else []
        return [text] if text else []

    def _begin(self) -> None:
        rest = self._text.lstrip(_SPACE)
        if rest.startswith(self._marks.begin):
            self._text, self._began, self._skips_space = rest[len(self._marks.begin) :], True, True
        elif not self._marks.begin.startswith(rest):
            self._began, self._ended, self._skips_space = self._is_open, not self._is_open, self._is_open

    def _think(self, parts: list[AnswerPart]) -> None:
        if self._skips_space:
            self._text = self._text.lstrip(_SPACE)
            self._skips_space = not self._text
        end = self._text.find(self._marks.end)
        if end >= 0:
            thinking = self._text[:end].rstrip(_SPACE)
            self._text = self._text[end + len(self._marks.end) :]
            self.thought = self._length - len(self._text)
            self._ended = self._skips_space = True
        else:
            thinking = self._text[: len(self._text) - held_back(self._text, (self._marks.end,), _SPACE)]
            self._text = self._text[len(thinking) :]
        if thinking:
            parts.append(Reasoning(thinking))
