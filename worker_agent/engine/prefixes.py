"""Which earlier sequence began with the same tokens: pure, a part of the scheduler.

Tokens are compared themselves, not by hashes: there are some dozens of candidates, a comparison of a thousand tokens
takes microseconds, and no collision can ever make one prompt go on from another's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from worker_agent.wire.messages import Reuse

KEPT_SEQUENCES = 64
"""So many sequences that are over may leave their state for later prompts."""
MIN_SHARED = 16
"""Fewer tokens are computed anew faster than they are looked up and copied."""
_STRIDE = 256


@dataclass(frozen=True)
class Candidate:
    """A sequence whose first tokens are in the caches of all stages."""

    number: int
    group: str
    tokens: Sequence[int]
    """Those that are there and known to be sound."""
    is_over: bool
    held: int = 0
    """How many the stages hold of one that is over: one that was cancelled may have been further."""


class KeptSequences:
    """Those that are over, the one that was of no use for longest first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Candidate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._kept.values())

    def add(self, candidate: Candidate) -> None:
        self._kept[candidate.number] = candidate

    def used(self, number: int) -> None:
        if number in self._kept:
            self._kept.move_to_end(number)

    def remove(self, number: int) -> None:
        self._kept.pop(number, None)


def longest(
    tokens: Sequence[int], group: str, candidates: Iterable[Candidate], reuse: Reuse
) -> tuple[Candidate, int] | None:
    """The candidate that begins with most of these tokens, and how many it shares: all but the last at most.

    Args:
        reuse: whether any beginning of a candidate serves, or only all of it.
    """
    found: tuple[Candidate, int] | None = None
    for candidate in candidates:
        if candidate.group != group:
            continue
        count = min(common(candidate.tokens, tokens), len(tokens) - 1)
        if count < MIN_SHARED or (reuse == "whole" and count < len(candidate.tokens)):
            continue
        if found is None or count > found[1] or (count == found[1] and candidate.is_over and not found[0].is_over):
            found = (candidate, count)
    return found


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same."""
    at, end = 0, min(len(one), len(other))
    while at < end and one[at : min(end, at + _STRIDE)] == other[at : min(end, at + _STRIDE)]:
        at += _STRIDE
    while at < end and one[at] == other[at]:
        at += 1
    return min(at, end)
