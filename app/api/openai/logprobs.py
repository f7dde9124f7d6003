"""Log probabilities in the two forms that the OpenAI API has: lists for completions, objects for chat.

A token's text is its bytes, wherever it stands, so that the texts of an answer's tokens join to the answer. One that
is no whole character is spelt in escapes, as the OpenAI API does it.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from app.api.openai.answers import ChatLogprobs, CompletionLogprobs, TokenLogprobs, TopLogprob
from app.inference.detokenizer import Detokenizer
from app.inference.tokenizer import Tokenizer
from app.runs.trace import TokenLogprob

LEAST = -9999.0
"""JSON has no infinity."""


class TokenNames:
    """What the tokens of a model are called. Without a tokenizer by their ids, in the form that vLLM uses."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)

    def bytes_of(self, token: int) -> bytes:
        return b"" if self._detokenizer is None else self._detokenizer.bytes_of(token)

    def name(self, token: int, prefix: str = "") -> str:
        """The text of a token; escapes behind `prefix` when it is no text by itself."""
        data = self.bytes_of(token)
        if not data:
            return f"token_id:{token}"
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return prefix + "".join(f"\\x{byte:02x}" for byte in data)


class TokenOffsets:
    """Where the tokens of one answer begin in its text; follows the answer as it grows."""

    def __init__(
        self, tokenizer: Tokenizer | None, skip_special_tokens: bool = True, shown: frozenset[int] = frozenset()
    ) -> None:
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer, skip_special_tokens, shown)
        self._length = 0
        self.offsets: list[int] = []

    def follow(self, token_ids: Sequence[int]) -> None:
        """Take the tokens so far."""
        for token in token_ids[len(self.offsets) :]:
            self.offsets.append(self._length)
            if self._detokenizer is not None:
                self._length += len(self._detokenizer.add(token))

    def ends_between(self, start: int, last: int) -> list[int]:
        """Where tokens end behind this many characters, up to so many."""
        ends = [*self.offsets[bisect.bisect_right(self.offsets, start) :], self._length]
        return [end for end in dict.fromkeys(ends) if start < end <= last]

    def count_between(self, start: int, end: int) -> int:
        """How many tokens begin at one of these characters."""
        return sum(start <= offset < end for offset in self.offsets)

    def count_within(self, length: int) -> int:
        """How many tokens begin before this many characters; all of them where there is no text."""
        if self._detokenizer is None:
            return len(self.offsets)
        count = len(self.offsets)
        while count and self.offsets[count - 1] >= length:
            count -= 1
        return count


@dataclass(frozen=True)
class EchoedPrompt:
    """A prompt as it is given back: its text, its tokens, and where each begins."""

    text: str
    token_ids: tuple[int, ...]
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, prompt: str | Sequence[int], token_ids: Sequence[int], tokenizer: Tokenizer | None) -> EchoedPrompt:
        """Tokenizes the prompt again: not for the loop."""
        if tokenizer is None:
            return cls("", tuple(token_ids), (0,) * len(token_ids))
        if isinstance(prompt, str):
            offsets = tuple(start for start, _ in tokenizer.backend.encode(prompt).offsets)
            return cls(prompt, tuple(token_ids), offsets)
        detokenizer, text, starts = Detokenizer(tokenizer, skip_special_tokens=False), "", []
        for token in token_ids:
            starts.append(len(text))
            text += detokenizer.add(token)
        return cls(text + detokenizer.flush(), tuple(token_ids), tuple(starts))


def completion_logprobs(
    names: TokenNames,
    token_ids: Sequence[int],
    entries: Sequence[TokenLogprob | None],
    offsets: Sequence[int],
    offset: int = 0,
) -> CompletionLogprobs:
    """The lists of the completions API. The likeliest tokens always have the chosen one among them.

    Args:
        entries: one for each token; None for the first of a prompt, of which nothing can be said.
        offset: what stands before the text that `offsets` count in.
    """
    return CompletionLogprobs(
        text_offset=[offset + start for start in offsets],
        token_logprobs=[None if entry is None else max(entry.logprob, LEAST) for entry in entries],
        tokens=[names.name(token, "bytes:") for token in token_ids],
        top_logprobs=[None if entry is None else _by_name(names, entry) for entry in entries],
    )


def chat_logprobs(names: TokenNames, entries: Sequence[TokenLogprob], count: int) -> ChatLogprobs:
    """The objects of the chat API, each with the `count` likeliest tokens."""
    return ChatLogprobs(content=token_logprobs(names, entries, count), refusal=None)


def token_logprobs(names: TokenNames, entries: Sequence[TokenLogprob], count: int) -> list[TokenLogprobs]:
    """An object for each token, each with the `count` likeliest tokens."""
    content = []
    for entry in entries:
        top = [
            TopLogprob(token=names.name(token), logprob=max(logprob, LEAST), bytes=list(names.bytes_of(token)))
            for token, logprob in entry.top[:count]
        ]
        data = list(names.bytes_of(entry.token))
        content.append(
            TokenLogprobs(
                token=names.name(entry.token), logprob=max(entry.logprob, LEAST), bytes=data, top_logprobs=top
            )
        )
    return content


def _by_name(names: TokenNames, entry: TokenLogprob) -> dict[str, float]:
    found: dict[str, float] = {}
    for token, logprob in (*entry.top, (entry.token, entry.logprob)):
        # Two tokens may have one text; the likelier one comes first.
        found.setdefault(names.name(token, "bytes:"), max(logprob, LEAST))
    return found
