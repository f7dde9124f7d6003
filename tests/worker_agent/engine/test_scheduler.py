"""The first stage's plan: every token once and in order, budgets kept, nobody starved. Driven without a network."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from worker_agent.engine.scheduler import PlannedStep, Scheduler
from worker_agent.engine.sequence import Sequence
from worker_agent.wire.messages import Budget, Sampling, Token, Tokens


def sequence(number: int, prompt: int, answer: int) -> Sequence:
    return Sequence(number, list(range(1000, 1000 + prompt)), prompt, Sampling(), Budget(max_tokens=answer))


def come_round(scheduler: Scheduler, step: PlannedStep, wanted: dict[int, int]) -> list[Token]:
    """What the last stage would send back; `wanted` is each sequence's token limit."""
    tokens = []
    for piece in step.pieces:
        if piece.sample:
            end = piece.position + piece.count
            prompt = scheduler.running[piece.sequence].prompt_tokens if piece.sequence in scheduler.running else 0
            finish = "length" if prompt and end - prompt + 1 >= wanted[piece.sequence] else ""
            tokens.append(Token(piece.sequence, end, 7, finish))  # type: ignore[arg-type]
    assert scheduler.returned(Tokens("d", 1, step.number, tuple(tokens)))
    return tokens


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 8)), min_size=1, max_size=9),
    lanes=st.integers(1, 4),
    chunk=st.integers(1, 16),
    kv_tokens=st.integers(48, 120),
    data=st.data(),
)
def test_every_sequence_gets_all_its_tokens_once_within_the_budget(
    requests: list[tuple[int, int]], lanes: int, chunk: int, kv_tokens: int, data: st.DataObject
) -> None:
    scheduler = Scheduler(kv_tokens, 16, chunk, lanes)
    wanted = {number: answer for number, (_, answer) in enumerate(requests)}
    for number, (prompt, answer) in enumerate(requests):
        scheduler.add(sequence(number, prompt, answer))
    sent = dict.fromkeys(wanted, 0)
    answers = dict.fromkeys(wanted, 0)
    released: list[int] = []
    flying: list[PlannedStep] = []
    for _ in range(5000):
        step = scheduler.next_step()
        if step is not None:
            assert sum(piece.count for piece in step.pieces) <= chunk
            for piece in step.pieces:
                assert piece.position == sent[piece.sequence], "tokens are sent once and in order"
                assert (piece.admission is not None) == (piece.position == 0)
                sent[piece.sequence] += piece.count
            released += step.released
            if step.pieces:
                flying.append(step)
            assert len(flying) <= lanes
            assert scheduler.used <= kv_tokens or len(scheduler.running) == 1
        if flying and (step is None or data.draw(st.booleans())):
            for token in come_round(scheduler, flying.pop(0), wanted):
                answers[token.sequence] += 1
        elif step is None:
            break
    assert scheduler.is_idle
    assert answers == wanted
    assert sorted(released) == sorted(wanted), "every stage was told to free every sequence, once"


def test_decoding_sequences_are_divided_over_the_lanes() -> None:
    scheduler = Scheduler(10_000, 16, 256, lanes=2)
    for number in range(8):
        scheduler.add(sequence(number, 1, 50))
    first = scheduler.next_step()
    assert first is not None
    come_round(scheduler, first, dict.fromkeys(range(8), 50))
    one, other = scheduler.next_step(), scheduler.next_step()
    assert one is not None and other is not None
    assert (len(one.pieces), len(other.pieces)) == (4, 4)
    assert scheduler.next_step() is None, "no third step while two are in flight"


def test_a_cancelled_sequence_is_released_and_its_late_token_ignored() -> None:
    scheduler = Scheduler(1000, 16, 256, lanes=1)
    scheduler.add(sequence(1, 3, 50))
    step = scheduler.next_step()
    assert step is not None
    scheduler.cancel(1)
    assert scheduler.returned(Tokens("d", 1, step.number, (Token(1, 3, 9),)))
    following = scheduler.next_step()
    assert following is not None
    assert (following.pieces, following.released) == ((), (1,))
    assert scheduler.is_idle


def test_a_step_that_comes_round_twice_counts_once() -> None:
    scheduler = Scheduler(1000, 16, 256, lanes=1)
    scheduler.add(sequence(1, 3, 50))
    step = scheduler.next_step()
    assert step is not None
    message = Tokens("d", 1, step.number, (Token(1, 3, 9),))
    assert scheduler.returned(message)
    assert not scheduler.returned(message)
    assert scheduler.running[1].tokens[3:] == [9]


def test_a_prompt_that_cannot_be_cut_goes_into_one_step_beside_those_that_decode() -> None:
    scheduler = Scheduler(1000, 16, 8, 1, whole_prompts=True)
    scheduler.add(sequence(1, 3, 9))
    first = scheduler.next_step()
    assert first is not None and [piece.count for piece in first.pieces] == [3]
    scheduler.add(sequence(2, 50, 4))
    come_round(scheduler, first, {1: 9})
    second = scheduler.next_step()
    assert second is not None
    assert [(piece.sequence, piece.count, piece.sample) for piece in second.pieces] == [(1, 1, True), (2, 50, True)]


def test_a_sequence_that_begins_anew_is_released_and_admitted_by_one_step_with_all_its_tokens() -> None:
    scheduler = Scheduler(1000, 16, 8, 1, restarts_at=5)
    scheduler.add(sequence(1, 4, 9))
    for length in (4, 5):
        step = scheduler.next_step()
        assert step is not None and not step.released
        come_round(scheduler, step, {1: 9})
        assert len(scheduler.running[1].tokens) == length + 1
    step = scheduler.next_step()
    assert step is not None and step.released == (1,)
    (piece,) = step.pieces
    assert (piece.position, piece.count, piece.sample) == (0, 6, True)
    assert piece.admission is not None and piece.admission.total_tokens == 6
    come_round(scheduler, step, {1: 9})
    after = scheduler.next_step()
    assert after is not None and not after.released and after.pieces[0].position == 6


def operations(scheduler: Scheduler, steps: int) -> list[int]:
    """How many operations of Python the planning of each of some steps takes, all that it calls included."""
    counts = []

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counts[-1] += event == "opcode"
        return trace

    before = sys.gettrace()
    for _ in range(steps):
        counts.append(0)
        sys.settrace(trace)
        try:
            step = scheduler.next_step()
        finally:
            sys.settrace(before)
        assert step is not None
        come_round(scheduler, step, dict.fromkeys(range(1000), 200))
    return counts


def test_a_step_takes_no_more_planning_however_many_wait() -> None:
    found = {}
    for waiting in (2, 2, 256):  # the first time, Python has to find its way
        scheduler = Scheduler(512, 16, 256, lanes=1, reuse="any")
        for number in range(8 + waiting):
            scheduler.add(sequence(number, 20, 200))
        found[waiting] = operations(scheduler, 12)
        assert (len(scheduler.running), len(scheduler.waiting)) == (8, waiting)
    assert found[2] == found[256]
    assert min(found[2]) > 100
