"""Where a step's time went on a stage: waiting counts from when its message came, not from when it was looked at."""

from __future__ import annotations

import queue
import time
from typing import Any

import pytest

from tests.worker_agent.ring import RUNTIME, CutModel, Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, make_model
from worker_agent.engine.executor import Executor, StepPlan
from worker_agent.engine.outgoing import Destination, Outgoing
from worker_agent.host.compute import Compute
from worker_agent.wire.messages import Link, StageTime, Step, Tokens

PROMPT = random_prompt(5, VOCABULARY, 1)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> CutModel:
    folder = tmp_path_factory.mktemp("times")
    make_model("llama", folder / "model")
    return cut_model(folder / "model", folder / "parts")


def first_step(ring: Ring) -> tuple[Step, tuple[bytes, ...]]:
    """What the first stage of two has sent to the second."""
    ring.start(1, PROMPT, 5)
    ring.runners[0].work()
    _, outgoing = ring.post.popleft()
    assert isinstance(outgoing.message, Step)
    return outgoing.message, tuple(bytes(frame) for frame in outgoing.payload)


def came_round(ring: Ring) -> tuple[Tokens, StageTime]:
    """Let the second stage run; what it sent to the first, and its own times."""
    ring.runners[1].work()
    tokens = next(mail.message for _, mail in ring.post if mail.to is Destination.FIRST)
    ring.post.clear()
    assert isinstance(tokens, Tokens)
    return tokens, tokens.times[1]


def test_a_step_waits_on_a_later_stage_from_when_it_came(cut: CutModel) -> None:
    ring = Ring.build(cut, [3])
    step, payload = first_step(ring)
    ring.runners[1].arrived(step, payload, time.monotonic() - 0.5)
    _, times = came_round(ring)
    assert 500_000 <= times.queue_us < 5_000_000


def test_a_token_waits_on_the_first_stage_from_when_it_came_round(cut: CutModel) -> None:
    ring = Ring.build(cut, [3])
    step, payload = first_step(ring)
    ring.runners[1].arrived(step, payload)
    tokens, _ = came_round(ring)
    ring.runners[0].came_round(tokens, time.monotonic() - 0.5)
    ring.runners[0].work()
    second = ring.post[0][1].message
    assert isinstance(second, Step)
    assert 500_000 <= second.times[0].queue_us < 5_000_000


def test_chunks_of_one_prompt_do_not_wait_for_each_other(cut: CutModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what others are in the way for is waiting, not the time in which its own chunk before it was computed."""
    ring = Ring.build(cut, [3], prefill_chunk=16)
    computed = Executor.step

    def slowly(executor: Executor, plan: StepPlan) -> Any:
        if executor.stage.is_first and plan.turns:
            time.sleep(0.4)
        return computed(executor, plan)

    monkeypatch.setattr(Executor, "step", slowly)
    ring.start(1, random_prompt(48, VOCABULARY, 2), 1)
    ring.finish()
    computing = [step.times[0] for step in ring.steps if step.pieces]
    assert len(computing) == 3
    assert all(times.compute_us >= 400_000 and times.queue_us < 350_000 for times in computing)


def test_the_compute_thread_counts_what_lay_there_while_it_was_busy(cut: CutModel) -> None:
    ring = Ring.build(cut, [3])
    step, payload = first_step(ring)
    sent: queue.Queue[Outgoing] = queue.Queue()
    compute = Compute(sent.put, "boot1", RUNTIME)
    compute.add_stage(ring.runners[1].stage)
    compute.link(Link(call=1, deployment="d1", stage=1, epoch=ring.epoch + 1), lambda answer: None)
    ring.link()
    step, payload = first_step(ring)
    compute.step(step, payload)
    time.sleep(0.2)  # as a step of others would take: the thread has not begun
    compute.start()
    try:
        tokens = sent.get(timeout=20).message
    finally:
        compute.stop()
        compute.join(20)
    assert isinstance(tokens, Tokens)
    assert tokens.times[1].queue_us >= 200_000
