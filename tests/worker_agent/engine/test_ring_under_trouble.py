"""Messages that come late, twice or not at all change no answer; what cannot go on says so."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.worker_agent.ring import CutModel, Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, make_model
from worker_agent.engine.outgoing import Destination
from worker_agent.engine.ring import RESEND_SECONDS
from worker_agent.wire.errors import OutOfMemory, UnknownStage, WireError
from worker_agent.wire.messages import Link, Piece, Step, TensorFrame

PROMPTS = [random_prompt(length, VOCABULARY, seed) for seed, length in enumerate((4, 30, 9))]


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> CutModel:
    folder = tmp_path_factory.mktemp("trouble")
    make_model("llama", folder / "model")
    return cut_model(folder / "model", folder / "parts")


@pytest.fixture(scope="module")
def expected(cut: CutModel) -> list[list[int]]:
    return answers(Ring.build(cut, [2, 5]))


def answers(ring: Ring) -> list[list[int]]:
    for number, prompt in enumerate(PROMPTS):
        ring.start(number, prompt, 10)
    ring.finish()
    return [ring.answer(number) for number in range(len(PROMPTS))]


def test_doubled_messages_are_harmless(cut: CutModel, expected: list[list[int]]) -> None:
    ring = Ring.build(cut, [2, 5])
    for number, prompt in enumerate(PROMPTS):
        ring.start(number, prompt, 10)
    while sum(runner.work() for runner in ring.runners) + len(ring.post):
        ring.post.extend([mail for mail in ring.post if mail[1].to is not Destination.CONTROLLER])
        ring.deliver()
    assert not ring.faults
    assert [ring.answer(number) for number in range(3)] == expected


def test_lost_messages_are_repeated_and_change_nothing(cut: CutModel, expected: list[list[int]]) -> None:
    ring, lottery, lost = Ring.build(cut, [2, 5]), random.Random(3), 0
    for number, prompt in enumerate(PROMPTS):
        ring.start(number, prompt, 10)
    for turn in range(2000):
        done = sum(runner.work() for runner in ring.runners) + len(ring.post)
        for mail in list(ring.post):
            if mail[1].to is not Destination.CONTROLLER and lottery.random() < 0.15:
                ring.post.remove(mail)
                lost += 1
        ring.deliver()
        if not done:
            if len(ring.finished) == len(PROMPTS):
                break
            for runner in ring.runners:
                runner.repeat_lost(1e9 + (turn + 1) * 100 * RESEND_SECONDS)
    assert lost > 5
    assert not ring.faults
    # The controller's copy of a repeated step comes again; it knows a token by its position.
    for number in range(len(PROMPTS)):
        by_position = {token.position: token.token for token in ring.tokens[number]}
        assert [by_position[position] for position in sorted(by_position)] == expected[number]


def test_a_new_epoch_forgets_what_was_and_drops_what_comes_late(cut: CutModel, expected: list[list[int]]) -> None:
    ring = Ring.build(cut, [2, 5])
    ring.start(0, PROMPTS[0], 10)
    ring.runners[0].work()
    assert len(ring.post) == 1, "a step is on its way"
    ring.link()
    ring.finish()
    assert ring.answer(0) == []
    assert sum(runner.dropped for runner in ring.runners) >= 1
    assert answers(ring) == expected


def test_a_restarted_neighbour_is_told_from_a_lost_message(cut: CutModel) -> None:
    ring = Ring.build(cut, [3])
    ring.start(0, PROMPTS[0], 10)
    ring.turn()
    ring.finish()
    step = Step("d1", "p1", ring.epoch, 99, 1, "another", (), (), ())
    ring.runners[1].arrived(step, ())
    ring.deliver()
    assert [fault.message for fault in ring.faults] == [
        "the agent before this one was restarted and has forgotten its caches"
    ]


def test_a_position_that_does_not_fit_the_cache_is_a_fault_and_stops_the_stage(cut: CutModel) -> None:
    ring = Ring.build(cut, [3])
    hidden = bytes(4 * 64)
    step = Step("d1", "p1", ring.epoch, 1, 1, "boot0", (Piece(5, 7, 1, True),), (), (_frame(),))
    ring.runners[1].arrived(step, (hidden,))
    ring.runners[1].work()
    ring.deliver()
    (fault,) = ring.faults
    assert fault.kind == "position" and "position 7" in fault.message
    assert ring.runners[1].broken


def test_what_can_never_run_is_refused_at_once(cut: CutModel) -> None:
    ring = Ring.build(cut, [3])
    with pytest.raises(OutOfMemory, match="4096 tokens of KV cache"):
        ring.start(0, PROMPTS[0], 5000)
    with pytest.raises(WireError, match="outside the vocabulary"):
        ring.start(0, [VOCABULARY + 5], 5)
    with pytest.raises(WireError, match="not newer"):
        ring.runners[0].link(Link(call=1, deployment="d1", stage=0, epoch=ring.epoch))
    ring.epoch -= 1
    with pytest.raises(UnknownStage, match="epoch"):
        ring.start(0, PROMPTS[0], 5)


def test_the_faster_ways_are_taken_and_can_be_switched_off(
    cut: CutModel, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick = Ring.build(cut, [2, 5])
    assert all(runner.stage.batched and runner.stage.recording is not None for runner in quick.runners)
    for switch in ("FUSED", "PACKED", "TRACED"):
        monkeypatch.setenv(f"SHARDBOARD_{switch}", "0")
    plain = Ring.build(cut, [2, 5])
    assert all(runner.stage.recording is None for runner in plain.runners)
    names = {type(module).__name__ for runner in plain.runners for module in runner.stage.slice.model.modules()}
    assert not names & {"Sibling", "PackedLinear", "FusedNorm"}
    assert answers(plain) == expected


def _frame() -> TensorFrame:
    from worker_agent.wire.messages import DType

    return TensorFrame(DType.FLOAT32, (1, 64))
