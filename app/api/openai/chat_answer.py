"""One answer of a chat while it comes: its text divided into thinking, text and calls, and what is counted of it.

Both forms in which chats are answered, that of chat completions and that of responses, are made from this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.api.openai.logprobs import TokenOffsets
from app.api.openai.tools import ToolUse
from app.inference.answer_parts import AnswerPart, CallBegan
from app.inference.chat_format import ChatFormat
from app.inference.tokenizer import Tokenizer
from app.registry import RequestRecord
from app.runs.trace import TokenLogprob


class Answering(Protocol):
    """A request that is under way or over, as its answer is read: a RequestRun, or what was written down of one."""

    @property
    def record(self) -> RequestRecord: ...

    @property
    def is_over(self) -> bool: ...

    @property
    def text(self) -> str:
        """What has been shown so far."""
        ...

    @property
    def token_ids(self) -> Sequence[int]: ...

    @property
    def logprobs(self) -> Sequence[TokenLogprob]:
        """One for each token, where they were asked for."""
        ...

    @property
    def cached_tokens(self) -> int: ...

    @property
    def format(self) -> ChatFormat | None:
        """How the answer is written; None before it has begun."""
        ...


class ChatAnswer:
    """Feed what has come of the text; then `finish`. However the text is cut, the parts join to the same.

    Args:
        format: how this answer is written.
        use: the tools that may be called.
        skips_special: special tokens that are no marks show nothing.
    """

    def __init__(
        self, run: Answering, format: ChatFormat, tokenizer: Tokenizer, use: ToolUse | None, *, skips_special: bool
    ) -> None:
        self._run, self._format = run, format
        self._offsets = TokenOffsets(tokenizer, skips_special, format.shown(tokenizer))
        self._reader = format.reader() if use is None else use.reader(format)
        self.length = 0
        """Characters of the answer that were fed."""
        self.has_calls = False
        self._told = 0
        """Tokens whose log probabilities were told."""

    def feed(self, text: str) -> list[AnswerPart]:
        """Take the next text; what is certain now."""
        self.length += len(text)
        return self._noted(self._reader.feed(text))

    def finish(self) -> list[AnswerPart]:
        """The answer is over: what was held back."""
        return self._noted(self._reader.finish())

    def ends_within(self, length: int) -> list[int]:
        """Where tokens end whose text was not fed yet, within this many characters of the answer."""
        self._offsets.follow(self._run.token_ids)
        return self._offsets.ends_between(self.length, length)

    def new_logprobs(self) -> Sequence[TokenLogprob]:
        """Of the tokens that the text so far has brought besides those that were told before."""
        self._offsets.follow(self._run.token_ids)
        first, last = self._told, self._offsets.count_within(self.length)
        self._told = max(first, last)
        return self._run.logprobs[first:last]

    def reasoning_tokens(self) -> int | None:
        """How many tokens begin within thinking or its marks; None of models that are not known to think."""
        if not self._format.thinks:
            return None
        self._offsets.follow(self._run.token_ids)
        return sum(self._offsets.count_between(start, end) for start, end in self._reader.thought)

    def _noted(self, parts: list[AnswerPart]) -> list[AnswerPart]:
        self.has_calls = self.has_calls or any(isinstance(part, CallBegan) for part in parts)
        return parts
