"""A stage is lost in the middle of answers; what comes afterwards is what would have come, to the last bit."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from tests.inference import tiny_tokenizers
from tests.sparsely import every_second
from tests.worker_agent.causal_types import make_model as make_any
from tests.worker_agent.recovering import RecoveringRing, Wish
from tests.worker_agent.ring import Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, make_model
from worker_agent.engine.executor import Executor
from worker_agent.engine.grammars import Grammars
from worker_agent.engine.memory.aside import Aside
from worker_agent.engine.memory.pool import StatePool
from worker_agent.engine.memory.rows import RowPool
from worker_agent.engine.stage import Stage
from worker_agent.wire.errors import OutOfStep, UnknownStage, WireError
from worker_agent.wire.messages import Constraint, Halt, JournalStep, Link, Resumed, Sampling

BEGINNING = random_prompt(40, VOCABULARY, 9)
FOLLOWED = Constraint("regex", "([a-f][0-9]){12}")
WISHES = {
    0: Wish(random_prompt(23, VOCABULARY, 0), 30),
    1: Wish(random_prompt(9, VOCABULARY, 1), 8, Sampling(temperature=0.9, top_p=0.95, seed=5)),
    2: Wish(BEGINNING, 24, Sampling(temperature=1.2, seed=7, repetition_penalty=1.3, presence_penalty=0.4)),
    3: Wish(random_prompt(70, VOCABULARY, 3), 20, Sampling(no_repeat_ngram_size=2, logprobs=2)),
    # Shares what the third one has read, while that runs.
    4: Wish([*BEGINNING, *random_prompt(11, VOCABULARY, 4)], 18, after=(2, 3)),
    # Comes when the second one is over, and takes its slot.
    5: Wish(random_prompt(17, VOCABULARY, 5), 14, Sampling(temperature=0.7, seed=2), after=(1, 8)),
    6: Wish(
        random_prompt(12, VOCABULARY, 6), 16, Sampling(temperature=1.5, seed=4, constraint=FOLLOWED.name), eos=(0,)
    ),
}


MOMENTS = range(1, 100, 13)
"""After how many turns a stage is lost."""


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def stages(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[Stage]:
    """On many processors rows of a step depend on how many there are in one type, and not in the other."""
    folder = tmp_path_factory.mktemp("going-on")
    make_model("llama", folder / "model", num_hidden_layers=6)
    ring = Ring.build(cut_model(folder / "model", folder / "parts"), [2, 4], dtype=request.param, prefill_chunk=16)
    return [runner.stage for runner in ring.runners]


@dataclass(frozen=True)
class Case:
    """What is asked of the stages, how they are loaded, and what comes of it when nothing is lost."""

    stages: list[Stage]
    wishes: dict[int, Wish]
    changes: dict[str, object]
    answers: dict[int, list[int]] = field(default_factory=dict)
    rows: dict[tuple[int, int, int], bytes] = field(default_factory=dict)

    @classmethod
    def undisturbed(cls, stages: list[Stage], wishes: dict[int, Wish], **changes: object) -> Case:
        case = cls(stages, wishes, changes)
        ring = case.ring()
        ring.serve(wishes)
        assert len(ring.finished) == len(wishes)
        return cls(stages, wishes, changes, {number: ring.answer(number) for number in wishes}, ring.rows())

    def ring(self) -> RecoveringRing:
        grammars = Grammars()
        grammars.prepare("d1", FOLLOWED, (0,), tiny_tokenizers.byte_level().to_str().encode())
        return RecoveringRing.of(self.stages, grammars, **self.changes)

    def lost_after(self, turns: int, *lost: int) -> RecoveringRing:
        """Lose these stages after so many turns, and go on to the end."""
        ring = self.ring()
        ring.serve(self.wishes, turns)
        ring.go_on(ring.halt(lost))
        ring.serve(self.wishes)
        return ring

    def check_in_lanes(self, ring: RecoveringRing) -> None:
        """Who shares a step with whom depends on when steps come round: low bits may differ where that matters."""
        if depends_on_company(self.stages[0].dtype):
            assert {number: ring.answer(number) for number in self.wishes} == self.answers
        else:
            self.check(ring)

    def check(self, ring: RecoveringRing) -> None:
        assert {number: ring.answer(number) for number in self.wishes} == self.answers
        rows = ring.rows()
        assert rows.keys() == self.rows.keys()
        assert [key for key in rows if rows[key] != self.rows[key]] == []


@pytest.fixture(scope="module")
def many(stages: list[Stage]) -> Case:
    return Case.undisturbed(stages, WISHES, lanes=1, journal_bytes=10**8)


@pytest.fixture(scope="module")
def in_lanes(stages: list[Stage]) -> Case:
    """As many steps at once as there are stages."""
    return Case.undisturbed(
        stages, {number: wish for number, wish in WISHES.items() if number < 4}, lanes=3, journal_bytes=10**8
    )


@pytest.fixture(scope="module")
def crowded(stages: list[Stage]) -> Case:
    """Too many for the pool: the younger ones yield, and come again."""
    wishes = {number: Wish(random_prompt(30, VOCABULARY, number), 50) for number in range(4)}
    return Case.undisturbed(stages, wishes, lanes=1, kv_tokens=192, journal_bytes=10**8)


@pytest.mark.parametrize("turns", every_second(MOMENTS))
def test_states_survive_a_link_and_go_on_as_if_nothing_had_been(many: Case, turns: int) -> None:
    many.check(many.lost_after(turns))


@pytest.mark.parametrize("turns", every_second(range(1, 60, 9)))
def test_steps_that_go_side_by_side_hold_the_same_sequences_as_before(in_lanes: Case, turns: int) -> None:
    in_lanes.check_in_lanes(in_lanes.lost_after(turns))


@pytest.mark.parametrize("turns", every_second(range(110, 166, 8)))
def test_whoever_had_yielded_goes_on(crowded: Case, turns: int) -> None:
    ring = crowded.lost_after(turns)
    if turns in range(114, 156):
        assert "aside" in {each.kind for each in ring.resumed}
    crowded.check(ring)


def test_what_is_kept_for_later_prompts_stays(stages: list[Stage]) -> None:
    chat = Wish(random_prompt(30, VOCABULARY, 1), 12)
    first = Case.undisturbed(stages, {0: chat}, lanes=1)
    further = [*chat.prompt, *first.answers[0], *random_prompt(9, VOCABULARY, 2)]
    # The last one begins after the loss, which comes while the second one is under way.
    case = Case.undisturbed(
        stages, {0: chat, 1: Wish(chat.prompt[:7], 20, after=(0, 12)), 2: Wish(further, 9, after=(1, 15))}, lanes=1
    )
    ring = case.lost_after(60)
    assert [each.kind for each in ring.resumed] == ["runs", "kept"]
    assert ring.cached == {2: 41}
    case.check(ring)


@pytest.mark.parametrize(
    ("turns", "lost"),
    # With an odd number of stages, each is lost at every second moment.
    every_second(
        [*itertools.product(MOMENTS, [(0,), (1,), (2,)]), *itertools.product((13, 44, 77), [(0, 1), (1, 2), (0, 2)])]
    ),
)
def test_a_lost_stage_is_computed_again_to_the_last_bit(many: Case, turns: int, lost: tuple[int, ...]) -> None:
    ring = many.lost_after(turns, *lost)
    if 0 in lost and not all(each.length for each in ring.resumed):
        # Nobody is left who knows in which step a prompt was to begin: it may be read in another one.
        assert ring.finished == many.wishes.keys()
    else:
        many.check(ring)


@pytest.mark.parametrize("lost", range(3))
@pytest.mark.parametrize("turns", every_second(range(110, 166, 16)))
def test_a_stage_is_lost_while_some_have_yielded(crowded: Case, turns: int, lost: int) -> None:
    crowded.check(crowded.lost_after(turns, lost))


@pytest.mark.parametrize("lost", range(3))
def test_a_stage_is_lost_while_steps_go_side_by_side(in_lanes: Case, lost: int) -> None:
    in_lanes.check_in_lanes(in_lanes.lost_after(25, lost))


def test_one_is_lost_after_another_and_then_the_newcomer(many: Case) -> None:
    ring = many.ring()
    for turns, lost in ((30, (1,)), (17, (0,)), (3, (2,)), (20, (1,))):
        ring.serve(many.wishes, turns)
        ring.go_on(ring.halt(lost))
    ring.serve(many.wishes)
    many.check(ring)


def test_what_fills_steps_up_is_needed(stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    """One is over, and others that shared its steps have to be computed again: without its rows low bits differ."""
    wishes = {number: Wish(random_prompt(5 + number, VOCABULARY, number), 40) for number in range(3)}
    case = Case.undisturbed(stages, wishes | {3: Wish([5, 9, 2], 9)}, lanes=1, journal_bytes=10**8)
    case.check(case.lost_after(60, 1))
    computed, dropped = Executor.recompute, 0

    def without_filling(executor: Executor, step: JournalStep, given: torch.Tensor) -> torch.Tensor:
        nonlocal dropped
        places = [place for place, piece in enumerate(step.pieces) for _ in range(piece.count)]
        rows = torch.tensor([not step.pieces[place].fills for place in places])
        dropped += len(rows) - int(rows.sum())
        mine = replace(step, pieces=tuple(piece for piece in step.pieces if not piece.fills))
        found = computed(executor, mine, given[rows])
        output = found.new_zeros(len(rows), executor.stage.hidden_size)
        output[rows] = found
        return output

    monkeypatch.setattr(Executor, "recompute", without_filling)
    ring = case.lost_after(60, 1)
    assert dropped > 5
    if depends_on_company(stages[1].dtype):
        with pytest.raises(AssertionError):
            case.check(ring)


def depends_on_company(dtype: torch.dtype) -> bool:
    """Whether this processor computes rows by themselves otherwise than among four: it may choose another order of
    sums for each count of rows."""
    rows, matrix = torch.randn(4, 64).to(dtype), torch.randn(96, 64).to(dtype)
    among = torch.nn.functional.linear(rows, matrix)
    return not all(torch.equal(among[:count], torch.nn.functional.linear(rows[:count], matrix)) for count in (1, 2, 3))


def test_states_make_way_for_what_fills_a_step_up() -> None:
    rows = RowPool(4, 64)
    pool = StatePool(rows.state, Aside(None, ""))
    for number in range(3):
        pool.admit(number, 1)
    pool[0].imported({"0.keys": torch.ones(1, 2, 4), "0.values": torch.full((1, 2, 4), 7.0)}, 2)
    pool.place({1: 2}, free=(0,))
    assert {number: pool[number].slot for number in range(3)} == {0: 1, 1: 2, 2: 3}
    assert pool[0].exported()["0.values"].eq(7).all()
    rows.state(0)


def test_what_goes_over_the_journals_limit_begins_anew(many: Case) -> None:
    ring = many.ring()
    ring.serve(many.wishes, 30)
    limit = ring.runners[0].info().journal_bytes // 3
    ring = Case(many.stages, many.wishes, {"journal_bytes": limit}).ring()
    ring.serve(many.wishes, 30)
    assert ring.runners[0].info().journal_bytes <= limit
    held = ring.halt((1,))
    given_up = {each.sequence for each in held[0] if each.kind == "runs" and each.length and not each.covered}
    assert given_up
    ring.go_on(held)
    assert given_up <= {each.sequence for each in ring.resumed if not each.length}
    ring.serve(many.wishes)
    assert ring.finished == many.wishes.keys()
    assert not ring.runners[0].info().journal_bytes, "nothing runs any more"


def test_what_cannot_be_computed_again_is_told(many: Case) -> None:
    ring = many.ring()
    ring.serve(many.wishes, 30)
    ring.spoil = lambda step: replace(step, pieces=tuple(replace(each, fills=True) for each in step.pieces))
    with pytest.raises(AssertionError, match="was computed again to 0 tokens, and is to go on from"):
        ring.go_on(ring.halt((1,)))


def test_a_sequence_that_is_cancelled_instead_of_started_holds_nobody_up(many: Case) -> None:
    ring = many.ring()
    ring.serve(many.wishes, 20)
    held = ring.halt()
    ring.go_on(held, cancelled=(0, 3))
    ring.serve(many.wishes)
    assert ring.finished == many.wishes.keys() - {0, 3}
    assert not any(runner.info().sequences for runner in ring.runners), "what they held was freed everywhere"


def test_what_cannot_be_as_it_was_told_is_refused_and_nothing_has_changed(many: Case) -> None:
    ring = many.ring()
    ring.serve(many.wishes, 20)
    (held,) = (each for each in ring.halt()[1] if each.sequence == 0)
    link = Link(call=1, deployment="d1", stage=1, epoch=ring.epoch + 1)
    too_long = replace(link, resumed=(Resumed(0, held.length + 1),))
    with pytest.raises(OutOfStep, match=f"its first {held.length + 1} tokens; its state here holds {held.length}"):
        ring.runners[1].link(too_long)
    assert ring.runners[1].epoch == ring.epoch
    with pytest.raises(UnknownStage, match="was to be halted"):
        ring.runners[1].halt(Halt(call=1, deployment="d1", stage=1, epoch=ring.epoch - 1))
    ring.runners[0].link(replace(link, stage=0, resumed=(Resumed(0, 3),)))
    ring.epoch += 1
    with pytest.raises(WireError, match="begin with 2 tokens in the caches; the stages were linked with 3"):
        ring.begin(0, held=2)


def test_a_state_that_was_cut_at_another_length_on_one_stage_is_found_out(many: Case) -> None:
    ring = many.ring()
    ring.serve(many.wishes, 30)
    ring.go_on(ring.halt(), wrong=1)
    with pytest.raises(AssertionError, match="came to a KV cache of"):
        ring.serve(many.wishes)


def test_after_a_step_that_failed_half_way_nothing_is_certain(many: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = many.ring()
    ring.serve(many.wishes, 20)
    monkeypatch.setattr(ring.runners[1]._executor, "_run", lambda *_: torch.empty(0).view(7))
    while not ring.runners[1].broken:
        ring.turn()
    monkeypatch.undo()
    assert ring.halt()[1] == ()
    with pytest.raises(OutOfStep, match="failed half-way"):
        ring.runners[1].link(Link(call=1, deployment="d1", stage=1, epoch=ring.epoch + 1, resumed=(Resumed(0, 3),)))


def test_a_state_that_cannot_be_cut_back_says_so(tmp_path: Path) -> None:
    make_model("mamba", tmp_path / "model", num_hidden_layers=3)
    ring = RecoveringRing.build(cut_model(tmp_path / "model", tmp_path / "parts"), [1, 2])
    ring.serve({0: Wish(random_prompt(9, VOCABULARY, 0), 20)}, 12)
    held = ring.halt()
    assert all(each.least == each.length > 0 for states in held.values() for each in states)
    link = Link(call=1, deployment="d1", stage=0, epoch=9, resumed=(Resumed(0, held[0][0].length - 1),))
    with pytest.raises(OutOfStep, match="can be cut back to"):
        ring.runners[0].link(link)


def test_what_was_answered_is_read_as_it_once_came_where_a_prompt_is_computed_otherwise(tmp_path: Path) -> None:
    """Such layers keep the time steps of a prompt within a range, and not those of tokens that come one by one."""
    make_any("nemotron_h", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "time_step_min": 0.3}))
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    undisturbed, later = Ring.build(cut, [2]), Ring.build(cut, [2])
    sampling, prompts = Sampling(temperature=1.5, seed=3), {number: random_prompt(12, 190, number) for number in (1, 2)}
    for number, prompt in prompts.items():
        undisturbed.start(number, prompt, 40, sampling)
    undisturbed.finish()
    for number, prompt in prompts.items():
        later.start(number, prompt, 40, sampling, answered=undisturbed.answer(number)[: 15 * number])
    later.finish()
    for number in prompts:
        assert undisturbed.answer(number) == [*undisturbed.answer(number)[: 15 * number], *later.answer(number)]
    assert not later.faults
