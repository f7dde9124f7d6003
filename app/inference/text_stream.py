"""Token ids to the text that may be shown: detokenized, held back where a stop string may begin, trimmed at one."""

from __future__ import annotations

from collections.abc import Sequence

from app.inference.detokenizer import Detokenizer
from app.inference.stop_strings import StopStrings
from app.inference.tokenizer import Tokenizer


class TextStream:
    """The answer of one request as text. Without a tokenizer there is no text, only tokens."""

    def __init__(self, tokenizer: Tokenizer | None, stops: Sequence[str]) -> None:
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)
        self._stops = StopStrings(stops)
        self.text = ""
        """All that was shown."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._stops.matched is not None

    def add(self, token: int) -> str:
        """What may be shown now that this token has come."""
        return "" if self._detokenizer is None else self._show(self._detokenizer.add(token))

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

    def _show(self, text: str) -> str:
        shown = "" if self.stopped else self._stops.feed(text)
        self.text += shown
        return shown
