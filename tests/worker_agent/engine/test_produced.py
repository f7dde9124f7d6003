"""What sequences have brought is told again to a controller that missed it."""

from __future__ import annotations

from worker_agent.engine.produced import KEPT_ANSWERS, LEASE_SECONDS, ProducedLog
from worker_agent.wire.messages import (
    MAX_ENVELOPE_BYTES,
    CaughtUp,
    Produced,
    Scored,
    ScoredToken,
    Token,
    Tokens,
    TopToken,
    encode,
)

ALL = 2**31 - 1


def brought(*tokens: Token, **more: object) -> Tokens:
    return Tokens("d", 1, 1, tokens, **more)  # type: ignore[arg-type]


def test_it_is_told_from_where_the_asker_stands_and_what_came_twice_once() -> None:
    log = ProducedLog()
    log.begin(7, 3)
    for position in (3, 4, 4, 5):
        log.note(brought(Token(7, position, 10 + position)), 0)
    log.note(brought(Token(7, 9, 99)), 0)  # of a step that was not awaited
    (told,) = log.since([(7, 4, ALL)], 0)
    assert [token.token for token in told.tokens] == [14, 15]
    assert [len(each.tokens) for each in log.since([(7, 3, ALL), (7, 6, ALL)], 0)] == [3, 0]


def test_who_never_came_or_was_cancelled_is_not_known() -> None:
    log = ProducedLog()
    log.begin(1, 2)
    log.forget(1)
    assert log.since([(1, 2, ALL), (2, 2, ALL)], 0) == (Produced(1, False), Produced(2, False))


def test_what_ended_is_kept_for_the_lease_and_not_without_bounds() -> None:
    log = ProducedLog()
    log.begin(0, 1)
    log.note(brought(Token(0, 1, 5, "eos")), 10)
    assert log.since([(0, 1, ALL)], 10 + LEASE_SECONDS)[0].known
    assert not log.since([(0, 1, ALL)], 11 + LEASE_SECONDS)[0].known
    for number in range(KEPT_ANSWERS + 5):
        log.begin(number, 1)
        log.note(brought(Token(number, 1, 5, "eos")), 20)
    assert len(log) == KEPT_ANSWERS


def test_an_answer_fits_its_envelope_and_the_rest_is_had_by_asking_again() -> None:
    log = ProducedLog()
    log.begin(0, 1)
    top = tuple(TopToken(each, -12.345) for each in range(100))
    count = 3000
    for position in range(1, count + 1):
        log.note(brought(Token(0, position, 49_000, "", -1.25, top)), 0)
    position, rounds = 1, 0
    while position <= count:
        (told,) = log.since([(0, position, ALL)], 0)
        assert told.tokens and len(encode(CaughtUp(call=1, sequences=(told,)))) < MAX_ENVELOPE_BYTES
        position, rounds = position + len(told.tokens), rounds + 1
    assert rounds > 1


def test_scores_of_the_prompt_are_told_from_where_the_asker_stands() -> None:
    log = ProducedLog()
    log.begin(0, 6)
    for first, count in ((1, 2), (3, 3)):
        tokens = tuple(ScoredToken(each, -0.5) for each in range(first, first + count))
        log.note(brought(scored=(Scored(0, first, tokens),), cached=((0, 4),)), 0)
    (told,) = log.since([(0, 6, 3)], 0)
    assert [token.token for token in told.scored[0].tokens] == [3, 4, 5] and told.scored[0].position == 3
    assert told.cached == 4 and log.since([(0, 6, ALL)], 0)[0].scored == ()
