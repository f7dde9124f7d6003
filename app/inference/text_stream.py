"""Token ids to the text that may be shown: detokenized, held back where a stop string may begin, trimmed at one."""

from __future__ import annotations

from dataclasses import dataclass

from app.inference.detokenizer import Detokenizer
from app.inference.stop_strings import StopStrings
from app.inference.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextRules:
    """How an answer's tokens become its text."""

    stops: tuple[str, ...] = ()
    include_stop: bool = False
    """What ends the answer, a stop string or a token, is a part of its text."""
    skip_special: bool = True
    """Special tokens show nothing."""
    shown: frozenset[int] = frozenset()
    """But for these."""
    min_tokens: int = 0
    """No stop string ends the text before so many tokens."""


class TextStream:
    """The answer of one request as text. Without a tokenizer there is no text, only tokens."""

    def __init__(self, tokenizer: Tokenizer | None, rules: TextRules = TextRules()) -> None:
        self._tokenizer, self._rules = tokenizer, rules
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer, rules.skip_special, rules.shown)
        specials = tokenizer.special_texts if tokenizer is not None and rules.stops else ()
        self._stops = StopStrings(rules.stops, specials, included=rules.include_stop)
        self._count = 0
        self.text = ""
        """All that was shown."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._stops.matched is not None

    def add(self, token: int, *, ends: bool = False) -> str:
        """What may be shown now that this token has come.

        Args:
            ends: the answer ends with this token, which is an end of text or was named as one.
        """
        self._count += 1
        if self._tokenizer is None or self._detokenizer is None or self.stopped:
            return ""
        if self._rules.skip_special and token in self._tokenizer.special_ids and token not in self._rules.shown:
            return self._pass_over(self._tokenizer.text_of(token) or "")
        if ends and not self._rules.include_stop:
            return ""
        return self._show(self._detokenizer.add(token))

    def finish(self) -> str:
        """What was still held back; the answer is over."""
        if self._detokenizer is None or self.stopped:
            return ""
        shown = self._show(self._detokenizer.flush())
        if not self.stopped:
            held = self._stops.flush()
            self.text += held
            shown += held
        return shown

    def _pass_over(self, text: str) -> str:
        """A special token that is not shown, though a stop string may be waiting for it."""
        if not self._stops.sees_hidden:
            return ""
        assert self._detokenizer is not None
        shown = self._show(text, hidden=True)
        if self.stopped and not self._rules.include_stop and (rest := self._detokenizer.flush()):
            self.text += rest  # half a character, which came before the special token
            shown += rest
        return shown

    def _show(self, text: str, hidden: bool = False) -> str:
        may_stop = self._count > self._rules.min_tokens
        shown = "" if self.stopped else self._stops.feed(text, hidden=hidden, may_stop=may_stop)
        self.text += shown
        return shown
