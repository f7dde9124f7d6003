"""The compute thread: the one thread that touches models. Others leave it notes and read its figures."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from worker_agent.engine.grammars import Grammars
from worker_agent.engine.loading import drop_stage
from worker_agent.engine.outgoing import Destination, Outgoing
from worker_agent.engine.runner import Runner
from worker_agent.engine.runtime import Runtime
from worker_agent.engine.stage import Stage
from worker_agent.host.speed import SpeedMeter
from worker_agent.model.heap import large_blocks_apart
from worker_agent.store.storekeeper import failed
from worker_agent.wire.errors import AgentError, UnknownStage
from worker_agent.wire.messages import (
    Buffer,
    Cancel,
    CatchUp,
    CaughtUp,
    ControlMessage,
    Done,
    Failed,
    Halt,
    Link,
    Progress,
    ReadJournal,
    ReadStates,
    Recompute,
    Speed,
    StageInfo,
    Start,
    Step,
    Tokens,
    WriteJournal,
    WriteStates,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

Reply = Callable[[ControlMessage], None]
PayloadReply = Callable[..., None]
"""A Reply that takes payload frames behind the message."""

IDLE_SECONDS = 0.25
"""How long the thread waits for a note before it looks whether a step has to be repeated."""

YIELDING_SHARE = 3.0
"""An agent that leaves its machine to its owner rests for so many times as long as a step took."""
LONGEST_REST_SECONDS = 1.0

REFRESH_SECONDS = 0.2
"""How old the figures of stages may grow while steps run one after another."""


class Compute(threading.Thread):
    """Runs the steps of all stages on this agent, one at a time.

    Every public method may be called from any thread; those that change something leave a note and return
    at once. `send` and the reply functions are called from this thread. `aside` is a folder for the states of sequences
    that yield to others. While `is_loading`, the machine's speed is not measured: a stage needs the memory, and the
    figures would be those of a busy machine. While `yields`, it rests after each step.
    """

    def __init__(
        self,
        send: Callable[[Outgoing], None],
        boot: str,
        runtime: Runtime,
        aside: Path | None = None,
        is_loading: Callable[[], bool] = lambda: False,
        yields: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(name="compute", daemon=True)
        self._is_loading, self._yields = is_loading, yields
        self._aside = aside
        self._send, self._boot, self._runtime = send, boot, runtime
        self._notes: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._runners: dict[tuple[str, int], Runner] = {}
        self.grammars = Grammars()
        """What answers of the deployments here have to follow; made ready in other threads."""
        self._draining = False
        self._steps_done = 0
        self._busy: tuple[float, int] | None = None
        self._durations: deque[float] = deque(maxlen=200)
        self._infos: tuple[StageInfo, ...] = ()
        self._refreshed = 0.0
        self._meter: SpeedMeter | None = SpeedMeter(runtime)
        """None once it has measured, or cannot."""
        self._speeds: tuple[Speed, ...] = ()
        self.is_measuring = False
        """Whether it measures at this moment."""
        self.failure: BaseException | None = None
        """Why the thread died, if it did."""

    # --- notes from other threads --------------------------------------------------------------------

    def add_stage(
        self,
        stage: Stage,
        on_added: Callable[[], None] | None = None,
        on_failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Take over a loaded stage; it runs after its first Link. One that cannot be made ready is freed."""

        def note() -> None:
            key = (stage.load.deployment, stage.load.stage)
            try:
                self._runners[key] = Runner(
                    stage, self._runtime, self._boot, self._send, self._begun, self.grammars, self._aside
                )
            except Exception as error:
                log.exception("stage %d of %s cannot be made ready", key[1], key[0])
                drop_stage(stage)
                if on_failed is not None:
                    on_failed(error)
                return
            self._refresh()
            if on_added is not None:
                on_added()

        self._notes.put(note)

    def remove_stage(self, deployment: str, stage: int, on_removed: Callable[[], None]) -> None:
        """Forget a stage and what it holds; nothing happens if it is not there."""

        def note() -> None:
            runner = self._runners.pop((deployment, stage), None)
            if runner is not None:
                try:
                    try:
                        runner.close()
                    finally:
                        drop_stage(runner.stage)
                # it is gone whatever went wrong: nobody can ask for it any more
                except Exception:
                    log.exception("stage %d of %s was not freed as it should be", stage, deployment)
            if not any(held == deployment for held, _ in self._runners):
                self.grammars.forget(deployment)
            self._refresh()
            on_removed()

        self._notes.put(note)

    def link(self, message: Link, reply: Reply) -> None:
        stage = (message.deployment, message.stage)
        self._answered(message.call, reply, lambda: self._runner(*stage).link(message), changes=stage)

    def halt(self, message: Halt, reply: Reply) -> None:
        self._asked(message.call, reply, lambda: self._runner(message.deployment, message.stage).halt(message))

    def read_kept(self, message: ReadJournal | ReadStates, reply: PayloadReply) -> None:
        def question() -> tuple[ControlMessage, tuple[Buffer, ...]]:
            runner = self._runner(message.deployment, message.stage)
            return runner.read_journal(message) if isinstance(message, ReadJournal) else runner.copies.read(message)

        self._read(message.call, reply, question)

    def write_copies(self, message: WriteStates | WriteJournal, payload: Sequence[Buffer], reply: Reply) -> None:
        stage, frames = (message.deployment, message.stage), tuple(payload)
        self._answered(message.call, reply, lambda: self._runner(*stage).copies.write(message, frames), changes=stage)

    def recompute(self, message: Recompute, payload: Sequence[Buffer], reply: Reply) -> None:
        def answer(error: AgentError | None) -> None:
            reply(Done(call=message.call) if error is None else self._failed(message.call, error))

        def note() -> None:
            try:
                self._runner(message.deployment, message.stage).recompute(message, tuple(payload), answer)
            except Exception as error:
                reply(self._failed(message.call, error))

        self._notes.put(note)

    def start_sequence(self, message: Start, payload: Sequence[Buffer], reply: Reply) -> None:
        received = time.monotonic()
        self._answered(
            message.call,
            reply,
            lambda: self._runner(message.deployment, 0).start(message, tuple(payload), self._draining, received),
        )

    def cancel(self, message: Cancel, reply: Reply) -> None:
        def cancel() -> None:
            runner = self._runners.get((message.deployment, 0))
            if runner is not None and runner.epoch == message.epoch:
                runner.cancel(message.sequence)

        self._answered(message.call, reply, cancel, changes=(message.deployment, 0))

    def catch_up(self, message: CatchUp, reply: Reply) -> None:
        def question() -> CaughtUp:
            produced = self._runner(message.deployment, message.stage).produced(message)
            return CaughtUp(call=message.call, sequences=produced)

        self._asked(message.call, reply, question)

    def step(self, message: Step, payload: Sequence[Buffer]) -> None:
        received = time.monotonic()  # not when the note is read: that is after the step under way

        frames = tuple(payload)
        self._told(message.deployment, message.stage, lambda runner: runner.arrived(message, frames, received))
        time.sleep(0)  # hand the interpreter over now: the step has waited long enough

    def tokens(self, message: Tokens) -> None:
        received = time.monotonic()

        self._told(message.deployment, 0, lambda runner: runner.came_round(message, received))
        time.sleep(0)

    def drop_sequences(self, deployment: str) -> None:
        """The deployment's controller has fallen silent: end what it started."""

        def note() -> None:
            for (name, _), runner in self._runners.items():
                if name == deployment:
                    self._guarded(runner, runner.drop_sequences)

        self._notes.put(note)

    def set_draining(self, draining: bool) -> None:
        self._notes.put(lambda: setattr(self, "_draining", draining))

    def stop(self) -> None:
        """End the thread after the step under way."""
        self._notes.put(None)

    # --- figures for other threads -------------------------------------------------------------------

    def progress(self) -> Progress:
        busy, durations = self._busy, sorted(self._durations)
        return Progress(
            steps_done=self._steps_done,
            busy_seconds=None if busy is None else max(0.0, time.monotonic() - busy[0]),
            busy_tokens=0 if busy is None else busy[1],
            step_p99=durations[int(len(durations) * 0.99)] if durations else 0.0,
        )

    def stages(self) -> tuple[StageInfo, ...]:
        return self._infos

    def speeds(self) -> tuple[Speed, ...]:
        """What the device was measured to do; empty in an agent's first moments."""
        return self._speeds

    # --- the thread ------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            while self._take_notes():
                self._work()
        except BaseException as error:  # the thread ends here; the agent must say so and leave
            self.failure = error
            log.exception("the compute thread died")

    def _take_notes(self) -> bool:
        """Do what the notes say; wait for one only when no stage has work. False when it is time to end."""
        wait = not any(runner.has_work for runner in self._runners.values()) and not self._more
        if wait and not self._runners and self._meter is not None and self._notes.empty() and not self._is_loading():
            self._measure(self._meter)
        while True:
            try:
                note = self._notes.get(block=wait, timeout=IDLE_SECONDS if wait else None)
            except queue.Empty:
                return True
            if note is None:
                return False
            note()
            wait = False

    _more = False
    """Whether the last look at the stages found a step, so that there may be another."""

    def _work(self) -> None:
        self._more = False
        now = time.monotonic()
        for runner in list(self._runners.values()):
            began = time.monotonic()
            tokens = self._guarded(runner, runner.work) or 0
            self._busy = None
            if tokens:
                self._more = True
                self._steps_done += 1
                took = time.monotonic() - began
                self._durations.append(took)
                if self._yields():
                    time.sleep(min(YIELDING_SHARE * took, LONGEST_REST_SECONDS))
            else:
                self._guarded(runner, partial(runner.repeat_lost, now))
        if not self._more or now - self._refreshed > REFRESH_SECONDS:
            self._refresh()

    def _measure(self, meter: SpeedMeter) -> None:
        self.is_measuring = True
        try:
            with large_blocks_apart():
                self._meter = meter if meter.turn() else None
            self._speeds = meter.speeds
        # a figure for planning: an agent that cannot measure it, for want of memory for one, computes all the same
        except (RuntimeError, MemoryError, OSError) as error:
            log.warning("the speed of %s could not be measured: %s", self._runtime.device, error)
            self._meter = None
        finally:
            self.is_measuring = False

    def _begun(self, tokens: int) -> None:
        self._busy = (time.monotonic(), tokens)

    def _refresh(self) -> None:
        self._refreshed = time.monotonic()
        infos = []
        for key, runner in self._runners.items():
            try:
                infos.append(runner.info())
            except Exception:  # of states that are in doubt; what was last known is told until they are gone
                log.exception("what stage %d of %s holds cannot be told", key[1], key[0])
                infos += [each for each in self._infos if (each.deployment, each.stage) == key]
        self._infos = tuple(infos)

    def _runner(self, deployment: str, stage: int) -> Runner:
        runner = self._runners.get((deployment, stage))
        if runner is None:
            raise UnknownStage(f"this agent holds no stage {stage} of deployment {deployment}")
        return runner

    def _told(self, deployment: str, stage: int, action: Callable[[Runner], None]) -> None:
        """Leave a note for a stage that nobody awaits an answer to; nothing happens if the stage is not there."""

        def note() -> None:
            runner = self._runners.get((deployment, stage))
            if runner is not None:
                self._guarded(runner, lambda: action(runner))

        self._notes.put(note)

    @staticmethod
    def _guarded(runner: Runner, action: Callable[[], T]) -> T | None:
        """What an action on a stage gives. What goes wrong in it is that stage's fault alone: the others go on."""
        try:
            return action()
        except Exception as error:
            runner.give_up(error)
            return None

    def _answered(
        self, call: int, reply: Reply, action: Callable[[], None], changes: tuple[str, int] | None = None
    ) -> None:
        def done() -> Done:
            action()
            return Done(call=call)

        self._asked(call, reply, done, changes)

    def _read(
        self, call: int, reply: PayloadReply, question: Callable[[], tuple[ControlMessage, tuple[Buffer, ...]]]
    ) -> None:
        def note() -> None:
            try:
                page, payload = question()
            except Exception as error:
                reply(self._failed(call, error))
            else:
                reply(page, *payload)

        self._notes.put(note)

    def _asked(
        self,
        call: int,
        reply: Reply,
        question: Callable[[], ControlMessage],
        changes: tuple[str, int] | None = None,
    ) -> None:
        """Leave a note that answers a call.

        Args:
            changes: the stage that is changed by it, and is in an unknown state where that broke off unforeseen.
        """

        def note() -> None:
            try:
                answer = question()
            except Exception as error:
                answer = self._failed(call, error)
                runner = None if changes is None or isinstance(error, AgentError) else self._runners.get(changes)
                if runner is not None:
                    runner.give_up(error)
            reply(answer)

        self._notes.put(note)

    @staticmethod
    def _failed(call: int, error: Exception) -> Failed:
        """The answer to a call that could not be done, whatever the reason: the thread has other stages to run."""
        if not isinstance(error, AgentError):
            log.error("a call of the controller failed", exc_info=error)
        return failed(call, error)


__all__ = ["Compute", "Destination", "Outgoing", "Reply"]
