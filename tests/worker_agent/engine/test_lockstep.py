"""Several sequences that have each a pass of their own answer as each would alone, and share what reads weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from greenlet import getcurrent

from tests.worker_agent.causal_types import make_model as make_type
from tests.worker_agent.ring import RUNTIME, CutModel, Ring, cut_model, load_message, random_prompt
from tests.worker_agent.tiny_models import greedy, make_model
from worker_agent.engine import lockstep
from worker_agent.engine.executor import Admitted, Executor, StepPlan, Turn
from worker_agent.engine.loading import load_stage
from worker_agent.engine.lockstep import Lockstep, Meeting
from worker_agent.model import rowwise
from worker_agent.wire.messages import Shared, Way

PROMPTS = [random_prompt(length, 190, seed) for seed, length in enumerate((1, 5, 23, 40))]
ANSWER = 12
TYPES = {
    "falcon": "one key head for all heads, attention and MLP beside each other",
    "bloom": "biases by distance, residuals added inside the mixer",
    "mamba2": "recurrences alone",
    "bamba": "recurrences and attention in turn, joined matrices",
    "jamba": "prompts as a whole, experts",
    "deepseek_v3": "latent attention, experts",
    "big_bird": "a head that is one module with what stands before it",
}


def made(model_type: str, folder: Path) -> tuple[CutModel, list[list[int]]]:
    """A tiny model of a type, cut, and what transformers answers."""
    model = (make_model if model_type in ("falcon", "bloom") else make_type)(model_type, folder / "model")
    return cut_model(folder / "model", folder / "parts"), [greedy(model, prompt, ANSWER) for prompt in PROMPTS]


def answers_of(ring: Ring) -> list[list[int]]:
    for number, prompt in enumerate(PROMPTS):
        ring.start(number, prompt, ANSWER)
    ring.finish()
    assert not ring.faults
    return [ring.answer(number) for number in range(len(PROMPTS))]


def ways_of(ring: Ring) -> list[Way]:
    return [each for runner in ring.runners for each in runner.stage.ways.report() if each.name == "lockstep"]


@pytest.mark.parametrize("model_type", TYPES)
def test_sequences_side_by_side_answer_as_each_alone(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, expected = made(model_type, tmp_path)
    ring = Ring.build(cut, [2], prefill_chunk=16)
    assert all(way.used == way.possible > 0 and not way.why for way in ways_of(ring)), ways_of(ring)
    for runner in ring.runners:
        (way,) = (way for way in runner.stage.ways.report() if way.name == "recorded")
        assert way == Way("recorded", 0, 1, "each sequence has a pass of its own")
    together: list[int] = []
    exact = Meeting.run

    def counted(meeting: Meeting, calls: Sequence[object], *others: object) -> list[object]:
        together.append(len(calls))
        return exact(meeting, calls, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Meeting, "run", counted)
    assert answers_of(ring) == expected
    met = [count for count in together if count > 1]
    assert len(met) > 0.6 * len(together), "they hardly ever missed each other"


def test_where_a_part_of_the_weights_is_read_for_each_answer_it_is_said(tmp_path: Path) -> None:
    """Its attention has experts of its own, which look at where their tokens are."""
    make_type("jetmoe", tmp_path / "model", 1)
    (way,) = ways_of(Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), []))
    assert (way.used, way.possible) == (1, 1) and re.match(
        r"but \d\d% of their weights, which are read for each", way.why
    )


def hand_to_each_what_is_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Meeting.run
    monkeypatch.setattr(Meeting, "run", lambda *given: exact(*given)[::-1])


def give_all_what_the_first_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = lockstep._Step._joined
    monkeypatch.setattr(
        lockstep._Step, "_joined", lambda step, calls, dimensions: exact(step, [calls[0]] * len(calls), dimensions)
    )


@pytest.mark.parametrize("fault", [hand_to_each_what_is_anothers, give_all_what_the_first_is_given])
@pytest.mark.parametrize("model_type", ["falcon", "bamba"])
def test_a_meeting_that_gives_something_else_is_not_held_and_the_answers_stay(
    model_type: str, fault: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, expected = made(model_type, tmp_path)
    fault(monkeypatch)
    ring = Ring.build(cut, [2], prefill_chunk=16)
    for way in ways_of(ring):
        assert way.used == 0 < way.possible and way.why.startswith("layer ")
    assert not any(len(runner.stage.lockstep) for runner in ring.runners)
    assert answers_of(ring) == expected


def test_a_fault_in_one_layer_costs_that_layer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut, expected = made("bloom", tmp_path)
    found: list[set[torch.nn.Module]] = []
    find, exact = rowwise.find, Meeting.run

    def noted(*given: object) -> list[rowwise.RowWise]:
        each = find(*given)  # type: ignore[arg-type]
        found.append({one.module for one in each})
        return each

    def spoilt(meeting: Meeting, *given: object) -> list[torch.Tensor]:
        outputs = exact(meeting, *given)  # type: ignore[arg-type]
        return [1.001 * output for output in outputs] if meeting._module in set().union(*found[4:5]) else outputs

    monkeypatch.setattr(rowwise, "find", noted)
    monkeypatch.setattr(Meeting, "run", spoilt)
    ring = Ring.build(cut, [], prefill_chunk=16)
    (way,) = ways_of(ring)
    assert (way.used, way.possible) == (6, 7) and way.why.startswith("layer 4: ")
    assert answers_of(ring) == expected


def test_it_can_be_switched_off_where_an_agent_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut, expected = made("falcon", tmp_path)
    monkeypatch.setenv("SHARDBOARD_LOCKSTEP", "0")
    ring = Ring.build(cut, [], prefill_chunk=16)
    assert ways_of(ring) == [Way("lockstep", 0, 7, "switched off where this agent runs (SHARDBOARD_LOCKSTEP=0)")]
    assert answers_of(ring) == expected


@pytest.mark.parametrize("model_type", ["bloom", "lfm2"])
def test_states_that_were_cut_back_copied_and_set_aside_go_on_side_by_side(model_type: str, tmp_path: Path) -> None:
    cut, _ = made(model_type, tmp_path)
    layers = cut.anatomy.num_layers
    stage = load_stage(
        load_message(cut, 0, layers, 0, 1, max_context=256), cut.config, cut.parts_for(0, layers),
        lambda digest: cut.folder / digest, RUNTIME, 10**12, lambda done, total: None,
    )  # fmt: skip
    executor = Executor(stage, tmp_path / "aside")
    first, second = random_prompt(12, 190, 1), random_prompt(9, 190, 2)

    def begun(number: int, tokens: list[int]) -> torch.Tensor:
        turn = Turn(number, 0, len(tokens), range(len(tokens) - 1, len(tokens)))
        return executor.step(StepPlan((turn,), torch.tensor(tokens), admitted=(Admitted(number, len(tokens)),)))

    begun(1, first)
    begun(2, second)
    executor.step(StepPlan((), torch.empty(0), aside=(1,)))
    back = 7 if executor.memory[2].can_be_cut(7) else 9
    turns = (Turn(1, 12, 2, range(1, 2)), Turn(2, back, 1, range(1)), Turn(3, 12, 3, range(2, 3)))
    found = executor.step(
        StepPlan(turns, torch.tensor([3, 4, 5, 6, 7, 8]), admitted=(Admitted(3, 15, Shared(1, 12, False)),))
    )
    expected = [begun(4, [*first, 3, 4]), begun(5, [*second[:back], 5]), begun(6, [*first, 6, 7, 8])]
    torch.testing.assert_close(found, torch.cat(expected), atol=2e-4, rtol=2e-4)
    executor.close()
    stage.close()


# --- passes -----------------------------------------------------------------------------------------


class Doubled(torch.nn.Linear):
    """A module to meet at, that notes how many tokens it was given each time."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.seen: list[int] = []

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.seen.append(rows.shape[1])
        return 2 * rows


def meeting_at(module: torch.nn.Module) -> Lockstep:
    runs = [(length, lambda length=length: module(torch.ones(1, length, 3))) for length in (4, 2)]
    return Lockstep(rowwise.find([module], runs, torch.float32))


def test_passes_of_unlike_lengths_meet_and_each_gets_its_own() -> None:
    module = Doubled()
    steps = meeting_at(module)
    module.seen.clear()
    given = [torch.full((1, length, 3), float(length)) for length in (1, 5, 2)]
    found = steps.run([lambda rows=rows: module(module(rows)) for rows in given])
    assert module.seen == [8, 8]
    for rows, output in zip(given, found, strict=True):
        assert torch.equal(output, 4 * rows)


def test_a_pass_that_calls_less_often_leaves_the_others_to_meet() -> None:
    module = Doubled()
    steps = meeting_at(module)
    module.seen.clear()
    rows = torch.ones(1, 1, 3)
    steps.run([lambda: rows, lambda: module(rows), lambda: module(module(rows))])
    assert module.seen == [2, 1]


def test_a_pass_that_fails_ends_the_others_where_they_wait_and_the_next_step_runs() -> None:
    module = Doubled()
    steps = meeting_at(module)
    ended: list[str] = []
    rows = torch.ones(1, 1, 3)

    def waiting() -> torch.Tensor:
        try:
            return module(rows)
        finally:
            ended.append("waiting")

    def failing() -> torch.Tensor:
        raise ValueError("this pass cannot be")

    with pytest.raises(ValueError, match="this pass cannot be"):
        steps.run([waiting, failing])
    assert ended == ["waiting"]
    module.seen.clear()
    steps.run([lambda: module(rows), lambda: module(rows)])
    assert module.seen == [2] and getcurrent().parent is None
    steps.end()
    assert "forward" not in vars(module)
