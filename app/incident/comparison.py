"""Two answers side by side: where they part, and how near the choice was there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from app.incident.conditions import Promise
from app.runs.trace import TokenLogprob

CONTEXT_TOKENS = 12
"""So many tokens before the first difference are shown."""

TextOf = Callable[[Sequence[int]], str]


class TokenAt(Struct, frozen=True, kw_only=True):
    """A token that one of the two answers has at the first difference; without a token the answer ended there.

    Log probabilities as the run in the bundle and the replay saw them, where that is known.
    """

    token: int | None
    text: str = ""
    logprob_then: float | None = None
    logprob_now: float | None = None


class Difference(Struct, frozen=True, kw_only=True):
    """Where the answers part. `position` counts the answer's tokens from 0; `before` is the text just before it."""

    position: int
    before: str
    expected: TokenAt
    got: TokenAt


class Comparison(Struct, frozen=True, kw_only=True):
    """What came of running a request again."""

    request: int
    """Its number where the bundle was made."""
    replay_request: int
    """The number of the replay, here."""
    model: str
    deployment: str
    """What the replay ran on."""
    deployed: bool
    """Whether that was deployed for the replay, and taken down again."""
    same: bool
    compared: int
    """So many tokens of the bundle were compared: those up to the first difference, and that one."""
    first_difference: int | None
    difference: Difference | None
    expected: tuple[int, ...]
    got: tuple[int, ...]
    """A replay that went another way is ended soon after."""
    largest_logprob_difference: float | None
    """Between the same tokens; None where the run in the bundle recorded none."""
    finish_then: str | None
    finish_now: str | None
    differences_of_conditions: tuple[str, ...]
    interruptions_then: tuple[str, ...]
    interruptions_now: tuple[str, ...]
    """What interrupted the answers, a sentence each."""
    promise: Promise
    promise_text: str


def first_difference(
    expected: Sequence[int], got: Sequence[int], *, got_is_over: bool, compare_end: bool
) -> int | None:
    """The first position at which two answers are not the same; None while they agree.

    Args:
        got_is_over: nothing more comes, so that missing tokens are a difference.
        compare_end: the expected answer came to its own end, so that further tokens are a difference.
    """
    for position, (one, other) in enumerate(zip(expected, got, strict=False)):
        if one != other:
            return position
    if len(got) < len(expected):
        return len(got) if got_is_over else None
    return len(expected) if compare_end and len(got) > len(expected) else None


def describe_difference(
    position: int,
    expected: Sequence[int],
    got: Sequence[int],
    then: Sequence[TokenLogprob],
    now: Sequence[TokenLogprob],
    text_of: TextOf,
) -> Difference:
    """The two tokens at a position, with what came before and how likely each was."""

    def at(tokens: Sequence[int]) -> TokenAt:
        if position >= len(tokens):
            return TokenAt(token=None)
        token = tokens[position]
        return TokenAt(
            token=token,
            text=text_of([token]),
            logprob_then=_logprob(then, position, token),
            logprob_now=_logprob(now, position, token),
        )

    before = text_of(expected[max(0, position - CONTEXT_TOKENS) : position])
    return Difference(position=position, before=before, expected=at(expected), got=at(got))


def largest_logprob_difference(then: Sequence[TokenLogprob], now: Sequence[TokenLogprob], same: int) -> float | None:
    """How far the log probabilities of the first `same` tokens lie apart at most; None when one side has none."""
    pairs = list(zip(then[:same], now[:same], strict=False))
    return max((abs(one.logprob - other.logprob) for one, other in pairs), default=None)


def _logprob(entries: Sequence[TokenLogprob], position: int, token: int) -> float | None:
    if position >= len(entries):
        return None
    entry = entries[position]
    known = {**dict(entry.top), entry.token: entry.logprob}
    return known.get(token)
