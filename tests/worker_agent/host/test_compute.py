"""The compute thread outlives whatever goes wrong in one stage: the others of its machine go on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.worker_agent.ring import RUNTIME, Ring, cut_model
from tests.worker_agent.tiny_models import make_model
from worker_agent.engine.copying import StateCopies
from worker_agent.engine.outgoing import Outgoing
from worker_agent.engine.recomputing import Recomputing
from worker_agent.engine.runner import Runner
from worker_agent.engine.stage import Stage
from worker_agent.host.compute import Compute
from worker_agent.wire.messages import (
    Budget,
    Cancel,
    CatchUp,
    ControlMessage,
    Done,
    DType,
    Failed,
    Halt,
    Link,
    ReadStates,
    Recompute,
    Resumed,
    Sampling,
    StageFault,
    Start,
    TensorFrame,
    Tokens,
    WriteStates,
)


class Thread:
    """A compute thread with two deployments of one model, and what it says."""

    def __init__(self, stages: list[Stage]) -> None:
        self.said: queue.Queue[Outgoing] = queue.Queue()
        self.compute = Compute(self.said.put, "boot1", RUNTIME)
        self.stages, self.epoch = stages, 1
        for stage in stages:
            self.compute.add_stage(stage)
        self.compute.start()

    def asked(self, call: Any, message: Any, *payload: Any) -> ControlMessage:
        answers: queue.Queue[ControlMessage] = queue.Queue()
        call(message, *payload, lambda answer, *frames: answers.put(answer))
        return answers.get(timeout=20)

    def link(self, deployment: str, *resumed: Resumed) -> ControlMessage:
        self.epoch += 1
        return self.asked(
            self.compute.link, Link(call=1, deployment=deployment, stage=0, epoch=self.epoch, resumed=resumed)
        )

    def start(self, deployment: str) -> ControlMessage:
        message = Start(
            call=1, deployment=deployment, epoch=self.epoch, sequence=1, prompt_tokens=3, sampling=Sampling(),
            budget=Budget(max_tokens=2), tokens=TensorFrame(DType.INT32, (3,)),
        )  # fmt: skip
        return self.asked(self.compute.start_sequence, message, (np.arange(3, 6, dtype=np.int32).tobytes(),))

    def fault(self) -> StageFault:
        while not isinstance(message := self.said.get(timeout=20).message, StageFault):
            pass
        return message

    def still_answers(self, deployment: str) -> None:
        assert isinstance(self.link(deployment), Done)
        assert isinstance(self.start(deployment), Done)
        while True:
            message = self.said.get(timeout=20).message
            if isinstance(message, Tokens) and any(token.finish for token in message.tokens):
                break
        assert self.compute.failure is None and self.compute.is_alive()


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Stage]:
    """Of two deployments."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model("llama", folder / "model", num_hidden_layers=1)
    cut = cut_model(folder / "model", folder / "parts")
    return [Ring.build(cut, [], deployment=name).runners[0].stage for name in ("one", "other")]


@pytest.fixture
def thread(stages: list[Stage]) -> Iterator[Thread]:
    made = Thread(stages)
    yield made
    made.compute.stop()
    made.compute.join(20)


def ask(thread: Thread, what: str) -> ControlMessage | None:
    """Something of the stage of the first deployment, at its present epoch; its answer, if there is one."""
    compute = thread.compute
    own: dict[str, Any] = {"call": 1, "deployment": "one", "epoch": thread.epoch}
    match what:
        case "link":
            return thread.link("one")
        case "halt":
            return thread.asked(compute.halt, Halt(stage=0, **own))
        case "start":
            return thread.start("one")
        case "cancel":
            return thread.asked(compute.cancel, Cancel(sequence=1, **own))
        case "produced":
            return thread.asked(compute.catch_up, CatchUp(**own))
        case "read":
            return thread.asked(compute.read_kept, ReadStates(stage=0, have=(), max_bytes=99, **own))
        case "write":
            message = WriteStates(call=1, deployment="one", stage=0, parts=(), present=())
            return thread.asked(compute.write_copies, message, ())
        case "recompute":
            return thread.asked(compute.recompute, Recompute(stage=0, steps=(), complete=True, **own), ())
        case "came_round":
            compute.tokens(Tokens("one", thread.epoch, 1, ()))
        case "drop_sequences":
            compute.drop_sequences("one")
        case "work":
            return thread.start("one")
    return None


ANSWERED = ("link", "halt", "start", "cancel", "produced", "read", "write", "recompute")
CHANGING = ("link", "cancel", "write", "came_round", "drop_sequences", "work")
"""What leaves a state that nobody can be sure of where it breaks off."""


@pytest.mark.parametrize("what", [*ANSWERED, "came_round", "drop_sequences", "work"])
def test_what_nobody_foresaw_in_one_stage_is_answered_and_all_others_go_on(
    thread: Thread, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread.link("one")
    owner: type = StateCopies if what in ("read", "write") else Runner
    real = getattr(owner, what)

    def broken(self: Any, *arguments: Any) -> Any:
        if owner is StateCopies or self.load.deployment == "one":
            raise ZeroDivisionError("nobody thought of this")
        return real(self, *arguments)

    monkeypatch.setattr(owner, what, broken)
    answer = ask(thread, what)
    if what in ANSWERED:
        assert isinstance(answer, Failed)
        assert answer.kind == "internal" and "nobody thought of this" in answer.message
    if what in CHANGING:
        fault = thread.fault()
        assert (fault.deployment, fault.epoch, fault.kind) == ("one", thread.epoch - (what == "link"), "internal")
        assert not fault.goes_on
    monkeypatch.undo()
    thread.still_answers("other")
    going_on = thread.link("one", Resumed(1, 1))
    assert isinstance(going_on, Failed) == (what in CHANGING), "a state in doubt is not gone on with"
    thread.still_answers("one")


def test_a_stage_that_is_not_freed_as_it_should_be_is_gone_all_the_same(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runner, "close", lambda runner: 1 / 0)
    (stage,) = [each for each in thread.stages if each.load.deployment == "one"]
    removed = threading.Event()
    thread.compute.remove_stage("one", 0, removed.set)
    assert removed.wait(20)
    monkeypatch.undo()
    assert stage not in stage.weights.stages, "no later one takes it for a sibling"
    assert isinstance(thread.link("one"), Failed)
    thread.still_answers("other")


def test_a_stage_that_cannot_be_made_ready_or_told_of_ends_nothing(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: queue.Queue[Exception] = queue.Queue()
    monkeypatch.setattr(Runner, "__init__", lambda *arguments: 1 / 0)
    thread.compute.add_stage(thread.stages[0], None, failed.put)
    assert isinstance(failed.get(timeout=20), ZeroDivisionError)
    monkeypatch.undo()
    monkeypatch.setattr(Runner, "info", lambda runner: 1 / 0)
    thread.still_answers("other")
    monkeypatch.undo()
    thread.still_answers("other")


def test_a_lost_step_that_breaks_off_in_a_way_that_nobody_foresaw_is_answered_and_not_tried_for_ever(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(thread.link("one", Resumed(1, 3)), Done)
    monkeypatch.setattr(Recomputing, "_finish", lambda recomputing: 1 / 0)
    answer = ask(thread, "recompute")
    assert isinstance(answer, Failed) and "division by zero" in answer.message
    monkeypatch.undo()
    thread.still_answers("other")
