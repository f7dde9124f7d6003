"""The sequences of a pipeline, and what is remembered of those that are over."""

from __future__ import annotations

import itertools
import secrets
from collections import OrderedDict
from collections.abc import Sequence as Many

from app.inference.sequence import Home, Sequence

ENDED_SEQUENCES = 512


class UnderWay(dict[int, Sequence]):
    """Sequences that run, or wait to run again, by the number under which agents know them."""

    def __init__(self) -> None:
        super().__init__()
        self._ended: OrderedDict[int, list[int]] = OrderedDict()
        """The tokens of sequences that are over: others may have begun with them."""
        # Not from 1: agents may still have sequences of a controller that ended.
        self._numbers = itertools.count(secrets.randbits(40) << 20)

    def admit(self, sequence: Sequence, home: Home) -> None:
        """Give a sequence a number of its own."""
        sequence.number, sequence.pipeline = next(self._numbers), home
        self[sequence.number] = sequence

    def drop(self, sequence: Sequence) -> None:
        """It is over; its tokens are remembered for a while."""
        if self.pop(sequence.number, None) is not None:
            self._ended[sequence.number] = sequence.tokens
            while len(self._ended) > ENDED_SEQUENCES:
                self._ended.popitem(last=False)

    def release(self) -> list[Sequence]:
        """Let go of all of them."""
        released = list(self.values())
        self.clear()
        return released

    def tokens_of(self, number: int) -> list[int] | None:
        """The tokens of one that runs, or ran."""
        sequence = self.get(number)
        return self._ended.get(number) if sequence is None else sequence.tokens

    def in_common(self, prompt: Many[int]) -> int:
        """How many of a prompt's first tokens one of them began with."""
        every = (*(sequence.tokens for sequence in self.values()), *self._ended.values())
        return max((_in_common(tokens, prompt) for tokens in every), default=0)


def _in_common(one: Many[int], other: Many[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
