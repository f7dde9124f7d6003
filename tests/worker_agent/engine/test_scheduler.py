"""The first stage's plan: every token once and in order, budgets kept, nobody starved. Driven without a network."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker_agent.ring import Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import greedy, make_model
from worker_agent.engine import sequence as sequence_module
from worker_agent.engine.scheduler import PlannedStep, Scheduler
from worker_agent.engine.sequence import Sequence, check_looked_back
from worker_agent.wire.errors import AgentError
from worker_agent.wire.messages import (
    MAX_LOOKED_BACK,
    Admission,
    Budget,
    Piece,
    Sampling,
    Step,
    Token,
    Tokens,
    decode,
    encode,
)


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


LOOKING_BACK = {
    "penalties": (Sampling(repetition_penalty=1.2), 40, 0), "scores": (Sampling(prompt_logprobs=1), 40, 0),
    "words": (Sampling(no_repeat_ngram_size=2), 40, 0),
    "penalties after a loss": (Sampling(presence_penalty=1), 25, 15),
    "a grammar after a loss": (Sampling(constraint="0" * 64), 25, 15),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOOKING_BACK)
def test_who_has_more_to_look_back_at_than_a_message_takes_is_refused_at_its_start(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence_module, "MAX_LOOKED_BACK", 39)
    sampling, prompt, answered = LOOKING_BACK[kind]
    begins = Sequence(1, [5] * (prompt + answered), prompt, sampling, Budget(max_tokens=50))
    with pytest.raises(AgentError, match=r"the sequence has 40 tokens .* look back at 39 at most: .* leave these"):
        check_looked_back(begins)
    check_looked_back(replace(begins, tokens=[5] * 39, prompt_tokens=min(prompt, 39)))
    check_looked_back(replace(begins, sampling=Sampling(temperature=1.0, logprobs=3)))


def test_as_much_as_is_not_refused_goes_into_a_message() -> None:
    tokens = (2**31 - 1,) * MAX_LOOKED_BACK
    admission = Admission(tokens, len(tokens), len(tokens), Sampling(repetition_penalty=1.2), Budget(max_tokens=1))
    step = Step("d", "p", 1, 1, 1, "b", (Piece(1, 0, 1, True, admission),), (), ())
    assert decode(encode(step)) == step


def test_a_ring_goes_on_after_it_has_refused_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", tmp_path / "model", num_hidden_layers=2)
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [1])
    monkeypatch.setattr(sequence_module, "MAX_LOOKED_BACK", 20)
    prompt = random_prompt(21, 190, 1)
    with pytest.raises(AgentError, match="21 of prompt"):
        ring.start(1, prompt, 5, Sampling(presence_penalty=1))
    with pytest.raises(AgentError, match="15 of prompt and 6 answered so far"):
        ring.start(2, prompt[:15], 9, Sampling(presence_penalty=1), answered=prompt[15:])
    ring.start(3, prompt, 5)
    ring.finish()
    assert ring.answer(3) == greedy(model, prompt, 5)
