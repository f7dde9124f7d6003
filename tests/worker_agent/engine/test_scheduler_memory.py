"""The first stage's plan of memory: by use, nobody starved, and nothing in a cache that does not belong there."""

from __future__ import annotations

import random
import zlib
from array import array
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker_agent.engine.scheduler import PlannedStep, Scheduler
from worker_agent.engine.sequence import BLOCK, Sequence, in_blocks
from worker_agent.wire.messages import Budget, Finish, Reuse, Sampling, Shared, Token, Tokens

EOS = 7


@dataclass
class Stage:
    """What a stage holds when it does as the steps say: the tokens of each sequence, in memory or aside."""

    held: dict[int, list[int]] = field(default_factory=dict)
    aside: dict[int, list[int]] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    reuse: Reuse = "any"
    block: int = BLOCK
    """It takes memory for so many tokens at a time."""

    def follow(self, step: PlannedStep) -> None:
        for number in step.released:
            self.held.pop(number, None)
            self.aside.pop(number, None)
            self.kept.discard(number)
        self.kept |= {number for number in step.kept if number in self.held}
        for number in step.aside:
            if number in self.held:
                self.aside[number] = self.held.pop(number)
        at = 0
        for piece in step.pieces:
            if piece.admission is not None:
                assert piece.sequence not in self.held and piece.sequence not in self.aside
                self.held[piece.sequence] = []
                if (shared := piece.admission.shared) is not None:
                    if shared.sequence in self.aside:  # it runs again, but its turn has not come yet
                        self.held[shared.sequence] = self.aside.pop(shared.sequence)
                    donor = self.held.pop(shared.sequence) if shared.take else self.held[shared.sequence]
                    assert self.reuse == "any" or shared.tokens == len(donor), "this state cannot be cut back"
                    self.held[piece.sequence] = donor[: shared.tokens]
                    self.kept -= {shared.sequence} if shared.take else set()
        for piece in step.pieces:
            if piece.sequence in self.aside:
                self.held[piece.sequence] = self.aside.pop(piece.sequence)
            assert len(self.held[piece.sequence]) == piece.position, "every token once, and in order"
            self.held[piece.sequence] += step.tokens[at : at + piece.count]
            at += piece.count

    @property
    def used(self) -> int:
        return sum(in_blocks(len(tokens), self.block) for tokens in self.held.values())


def next_token(held: list[int]) -> int:
    """A function of all that came before, so that a wrong cache makes a wrong answer."""
    return 100 + zlib.crc32(array("i", held)) % 1000


def answer_of(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def sampled(stage: Stage, step: PlannedStep, lengths: dict[int, int], prompts: dict[int, list[int]]) -> Tokens:
    """What the last stage makes of a step, from what it holds."""
    tokens = []
    for piece in step.pieces:
        if piece.sample:
            held = stage.held[piece.sequence]
            count = len(held) - len(prompts[piece.sequence]) + 1
            finish: Finish = "length" if count >= lengths[piece.sequence] else ""
            tokens.append(Token(piece.sequence, len(held), next_token(held), finish))
    return Tokens("d", 1, step.number, tuple(tokens))


def some_requests(chance: random.Random) -> list[tuple[list[int], list[int], int, bool]]:
    """For each how its prompt begins, how it goes on, how long its answer is, and whether it is cancelled."""
    beginnings = ([], list(range(40)), [*range(40), *range(900, 990)])
    return [
        (
            chance.choice(beginnings), [chance.randrange(4) for _ in range(chance.randint(1, 60))],
            chance.randint(1, 150), chance.random() < 0.2,
        )
        for _ in range(chance.randint(1, 12))
    ]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32), lanes=st.integers(1, 3), chunk=st.integers(1, 64), kv_tokens=st.integers(352, 900),
    reuse=st.sampled_from(["no", "whole", "any"]), block=st.sampled_from([BLOCK, 4 * BLOCK]),
)  # fmt: skip
@example(
    seed=1146, lanes=3, chunk=6, kv_tokens=352, reuse="any", block=BLOCK
)  # one was cancelled with a token under way, and kept
def test_whoever_yields_or_shares_gets_the_tokens_that_it_would_have_had(
    seed: int, lanes: int, chunk: int, kv_tokens: int, reuse: Reuse, block: int
) -> None:
    chance = random.Random(seed)
    requests = some_requests(chance)
    scheduler = Scheduler(kv_tokens, 16, chunk, lanes, reuse=reuse, block=block)
    prompts = {number: [*beginning, *end] for number, (beginning, end, _, _) in enumerate(requests)}
    lengths = {number: length for number, (_, _, length, _) in enumerate(requests)}
    answers: dict[int, list[int]] = {number: [] for number in prompts}
    cancelled: set[int] = set()
    stage, to_come = Stage(reuse=reuse, block=block), list(prompts)
    flying: list[tuple[PlannedStep, Tokens]] = []
    for _ in range(30_000):
        if to_come and (scheduler.is_idle or chance.random() < 0.5):
            number = to_come.pop(0)
            over = [each for each, answer in answers.items() if len(answer) == lengths[each]]
            if over and len(prompts[number]) < 60 and chance.random() < 0.7:  # the next turn of a chat
                earlier = chance.choice(over)
                prompts[number] = [*prompts[earlier], *answers[earlier], *prompts[number]][:150]
            scheduler.add(Sequence(number, list(prompts[number]), len(prompts[number]), Sampling(), Budget(200)))
        step = scheduler.next_step()
        if step is not None:
            stage.follow(step)
            under_way = [number for number in prompts if scheduler.holds(number)]
            assert not under_way or under_way[0] not in step.aside, "the oldest never yields"
            if step.pieces:
                flying.append((step, sampled(stage, step, lengths, prompts)))
            assert stage.used <= in_blocks(kv_tokens, block) or len(stage.held) == 1
        elif not flying and not to_come:
            break
        if flying and (step is None or chance.random() < 0.5):
            for token in flying[0][1].tokens:
                if scheduler.holds(token.sequence):
                    answers[token.sequence].append(token.token)
            assert scheduler.returned(flying.pop(0)[1])
        if (
            step is not None
            and step.pieces
            and requests[(victim := step.pieces[0].sequence)][3]
            and chance.random() < 0.1
        ):
            cancelled.add(victim)
            scheduler.cancel(victim)
    assert scheduler.is_idle and not stage.aside
    assert set(stage.held) == stage.kept, "nothing is left but what is kept on purpose"
    for number in set(prompts) - cancelled:
        assert answers[number] == answer_of(prompts[number], lengths[number])


def run(scheduler: Scheduler, prompts: dict[int, list[int]], lengths: dict[int, int]) -> tuple[list[int], Stage]:
    """Add everything at once and run it; the sequences in the order of their ends, and what the stage holds then."""
    stage, ends = Stage(), []
    for number, prompt in prompts.items():
        scheduler.add(Sequence(number, list(prompt), len(prompt), Sampling(), Budget(4000)))
    while (step := scheduler.next_step()) is not None:
        stage.follow(step)
        message = sampled(stage, step, lengths, prompts)
        ends += [token.sequence for token in message.tokens if token.finish]
        if step.pieces:
            scheduler.returned(message)
    return ends, stage


def test_short_answers_do_not_wait_for_what_others_might_come_to() -> None:
    """Each of them may come to all that the pool holds, and none does."""
    scheduler = Scheduler(4096, 64, 256, 1)
    for number in range(32):
        scheduler.add(Sequence(number, list(range(20)), 20, Sampling(), Budget(4000)))
    scheduler.next_step()
    assert len(scheduler.running) > 20


def test_who_came_first_ends_first_where_only_one_can_run() -> None:
    scheduler = Scheduler(256, 16, 64, 1)
    ends, _ = run(scheduler, {n: [n] * 100 for n in range(4)}, dict.fromkeys(range(4), 120))
    assert ends == [0, 1, 2, 3]


def test_a_prompt_that_goes_on_from_an_earlier_one_takes_its_state_over() -> None:
    scheduler = Scheduler(4096, 16, 256, 1, reuse="any")
    _, stage = run(scheduler, {1: list(range(100))}, {1: 5})
    before = len(stage.held[1])
    scheduler.add(Sequence(2, [*stage.held[1], 1, 2, 3], before + 3, Sampling(), Budget(10)))
    step = scheduler.next_step()
    assert step is not None
    (piece,) = step.pieces
    assert (piece.position, piece.count) == (before, 3)
    assert piece.admission is not None and piece.admission.shared is not None and piece.admission.shared.take
    scheduler.add(Sequence(3, [*stage.held[1], 9, 8, 7], before + 3, Sampling(), Budget(10)))
    scheduler.returned(Tokens("d", 1, step.number, (Token(2, before + 3, EOS),)))
    step = scheduler.next_step()
    assert step is not None
    shares = [each.admission.shared for each in step.pieces if each.admission is not None]
    assert [each and each.sequence for each in shares] == [2], "what was taken over is another's now"


@pytest.mark.parametrize("length", [1000, 2040, 2100, 3500, 3980])
def test_a_state_that_is_taken_over_is_counted_once_however_much_of_the_pool_it_fills(length: int) -> None:
    scheduler = Scheduler(4096, 16, 512, 1, reuse="any")
    _, stage = run(scheduler, {1: list(range(length))}, {1: 5})
    earlier = stage.held[1]
    scheduler.add(Sequence(2, [*earlier, 1, 2, 3], len(earlier) + 3, Sampling(), Budget(10)))
    step = scheduler.next_step()
    assert step is not None and not step.released
    assert step.pieces[0].position == len(earlier)


@pytest.mark.parametrize("length", [1000, 3000])
def test_where_there_is_no_room_for_a_copy_what_begins_alike_is_taken_over(length: int) -> None:
    scheduler = Scheduler(4096, 16, 4096, 1, reuse="any")
    run(scheduler, {1: list(range(length))}, {1: 5})
    scheduler.add(Sequence(2, [*range(length // 2), *range(9000, 9900)], length // 2 + 900, Sampling(), Budget(10)))
    step = scheduler.next_step()
    assert step is not None and not step.released
    assert step.pieces[0].admission is not None
    assert step.pieces[0].admission.shared == Shared(1, length // 2, length == 3000)


def test_one_that_only_begins_alike_copies_what_they_share_and_leaves_the_rest() -> None:
    scheduler = Scheduler(4096, 16, 256, 1, reuse="any")
    run(scheduler, {1: list(range(100))}, {1: 5})
    scheduler.add(Sequence(2, [*range(50), 999], 51, Sampling(), Budget(10)))
    step = scheduler.next_step()
    assert step is not None and step.pieces[0].position == 50
    shared = step.pieces[0].admission and step.pieces[0].admission.shared
    assert shared is not None and not shared.take


def test_nothing_is_shared_between_groups() -> None:
    scheduler = Scheduler(4096, 16, 256, 1, reuse="any")
    run(scheduler, {1: list(range(100))}, {1: 5})
    scheduler.add(Sequence(2, [*range(100), 999], 101, Sampling(), Budget(10), group="another key"))
    step = scheduler.next_step()
    assert step is not None and step.pieces[0].position == 0


def test_what_is_kept_makes_room_for_what_runs() -> None:
    scheduler = Scheduler(512, 16, 512, 1, reuse="any")
    run(scheduler, {number: [number] * 100 for number in range(3)}, dict.fromkeys(range(3), 5))
    _, stage = run(scheduler, {9: [99] * 400}, {9: 50})
    assert 9 in stage.held and scheduler.used <= 512


def test_a_step_is_planned_as_fast_beside_many_that_wait_as_beside_two() -> None:
    """Counted in what is looked at, not in time: the queue is never walked through."""

    class Counted(Sequence):
        looked_at = 0

        def soon(self, block: int) -> int:
            Counted.looked_at += 1
            return super().soon(block)

    def looks(waiting: int) -> int:
        scheduler = Scheduler(BLOCK * 8, 4, 256, 1)
        for number in range(4 + waiting):
            scheduler.add(Counted(number, [1] * 10, 10, Sampling(), Budget(200)))
        Counted.looked_at = 0
        for _ in range(20):
            step = scheduler.next_step()
            assert step is not None
            tokens = tuple(Token(piece.sequence, piece.position + piece.count, EOS) for piece in step.pieces)
            scheduler.returned(Tokens("d", 1, step.number, tokens))
        return Counted.looked_at

    assert looks(256) == looks(2)


def test_states_that_take_the_same_for_any_length_are_no_more_than_sequences_may_run() -> None:
    """Memory was set aside for so many of them, whether they run or are kept."""
    scheduler = Scheduler(4096, 2, 256, 1, reuse="whole")
    stage = Stage(reuse="whole")
    prompts = {number: [number] * 40 for number in range(5)}
    for number, prompt in prompts.items():
        scheduler.add(Sequence(number, list(prompt), 40, Sampling(), Budget(10)))
    while (step := scheduler.next_step()) is not None:
        stage.follow(step)
        assert len(stage.held) <= 2
        if step.pieces:
            scheduler.returned(sampled(stage, step, dict.fromkeys(prompts, 5), prompts))
    assert stage.kept
