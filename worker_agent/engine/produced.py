"""What sequences have brought, kept on the first stage for a controller that may have missed some of it.

Tokens go to the controller straight from the last stage; what is under way when that connection breaks is lost there.
The first stage has seen them all (it makes the next step of them), so it can tell them again, also of sequences that
ended a while ago. Pure: times come in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from worker_agent.wire.messages import MAX_ENVELOPE_BYTES, Produced, Scored, ScoredToken, Token, Tokens

AnyToken = TypeVar("AnyToken", Token, ScoredToken)

LEASE_SECONDS = 120.0
"""How long what an ended sequence brought is kept. A controller that was restarted has come back by then."""
KEPT_ANSWERS = 1024
"""Ended sequences, at most; the oldest are forgotten first."""
TOKEN_BYTES, TOP_BYTES = 32, 16
"""What a token takes in an envelope, and each of the likeliest beside it, at most."""


@dataclass(slots=True)
class _Answer:
    begins: int
    """The index of the first token that is sampled."""
    tokens: list[Token] = field(default_factory=list)
    scored: list[ScoredToken] = field(default_factory=list)
    """From the prompt's second token on."""
    cached: int = 0
    ended: float | None = None


class ProducedLog:
    """The answers of one epoch. Belongs to the compute thread."""

    def __init__(self) -> None:
        self._answers: dict[int, _Answer] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def begin(self, sequence: int, begins: int) -> None:
        """A sequence was queued whose first sampled token will have the index `begins`."""
        self._answers[sequence] = _Answer(begins)

    def forget(self, sequence: int) -> None:
        """Nobody wants it any more."""
        self._answers.pop(sequence, None)

    def clear(self) -> None:
        self._answers.clear()

    def note(self, message: Tokens, now: float) -> None:
        """A step has come round; one that came before changes nothing."""
        for sequence, tokens in message.cached:
            if (answer := self._answers.get(sequence)) is not None:
                answer.cached = tokens
        for scored in message.scored:
            answer = self._answers.get(scored.sequence)
            if answer is not None and scored.position == 1 + len(answer.scored):
                answer.scored.extend(scored.tokens)
        ended = False
        for token in message.tokens:
            answer = self._answers.get(token.sequence)
            if answer is None or token.position != answer.begins + len(answer.tokens):
                continue
            answer.tokens.append(token)
            if token.finish:
                answer.ended, ended = now, True
        if ended:
            self._expire(now)

    def since(self, wanted: Iterable[tuple[int, int, int]], now: float) -> tuple[Produced, ...]:
        """What sequences have brought, as much as an envelope holds.

        Args:
            wanted: for each its number, the index of the next token, and of the next scored one of its prompt.
        """
        self._expire(now)
        room = MAX_ENVELOPE_BYTES // 2
        found = []
        for sequence, position, scored_position in wanted:
            answer = self._answers.get(sequence)
            if answer is None:
                found.append(Produced(sequence, False))
                continue
            scored = answer.scored[max(0, scored_position - 1) :]
            scored, room = _within(scored, room)
            tokens, room = _within(answer.tokens[max(0, position - answer.begins) :], room)
            told = (Scored(sequence, max(1, scored_position), tuple(scored)),) if scored else ()
            found.append(Produced(sequence, True, tuple(tokens), told, answer.cached))
        return tuple(found)

    def _expire(self, now: float) -> None:
        """Forget what ended long ago. Answers end in about the order in which they stand here."""
        over = [(answer.ended, sequence) for sequence, answer in self._answers.items() if answer.ended is not None]
        over.sort()
        kept = len(over)
        for ended, sequence in over:
            if now - ended <= LEASE_SECONDS and kept <= KEPT_ANSWERS:
                return
            del self._answers[sequence]
            kept -= 1


def _within(tokens: list[AnyToken], room: int) -> tuple[list[AnyToken], int]:
    """The first of these that fit into so many bytes, and the bytes that are left."""
    for count, token in enumerate(tokens):
        room -= TOKEN_BYTES + TOP_BYTES * len(token.top)
        if room < 0:
            return tokens[:count], 0
    return tokens, room
