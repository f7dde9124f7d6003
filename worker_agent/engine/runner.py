"""One stage at work: steps in, steps or tokens out. Lives in the compute thread alone.

The first stage plans its steps (`scheduler.py`), later ones take them as they come (`ring.py`); the last one
samples (`sampling.py`). A stage of a pipeline of one does all of it, and its tokens never leave the
process on their way back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from msgspec.structs import replace

from worker_agent.engine.copying import StateCopies
from worker_agent.engine.executor import Admitted, Executor, StepPlan, Turn
from worker_agent.engine.grammars import Grammars
from worker_agent.engine.journal import Journal
from worker_agent.engine.outgoing import Destination, Outgoing
from worker_agent.engine.produced import ProducedLog
from worker_agent.engine.recomputing import Answer, Recomputing
from worker_agent.engine.ring import Arrival, RingPlace, Verdict, Waits
from worker_agent.engine.runtime import Runtime
from worker_agent.engine.sampling import Samplers
from worker_agent.engine.scheduler import PlannedStep, Scheduler
from worker_agent.engine.sequence import BLOCK, Sequence, check_looked_back, check_whole_prompt
from worker_agent.engine.soundness import Soundness, overflow
from worker_agent.engine.stage import Stage
from worker_agent.engine.tensors import from_frame, to_frame
from worker_agent.wire.errors import AgentError, Draining, NotFinite, OutOfMemory, OutOfStep, UnknownStage, WireError
from worker_agent.wire.messages import (
    MAX_FRAME_BYTES,
    MAX_STATES,
    Buffer,
    CatchUp,
    Halt,
    Halted,
    HeldState,
    JournalPage,
    Link,
    Message,
    Piece,
    Produced,
    ReadJournal,
    Recompute,
    StageFault,
    StageInfo,
    StageTime,
    Start,
    Step,
    TensorFrame,
    Tokens,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A step of the stage before, as it came."""

    step: Step
    payload: tuple[Buffer, ...]


class Runner:
    """A stage, its place in the ring and the steps that wait for it.

    Args:
        send: takes an Outgoing; called from the compute thread.
        begun: told how many tokens a step holds just before it is computed.
        aside: a folder for the states of sequences that yield; None keeps them in memory.
    """

    def __init__(
        self,
        stage: Stage,
        runtime: Runtime,
        boot: str,
        send: Callable[[Outgoing], None],
        begun: Callable[[int], None] = lambda tokens: None,
        grammars: Grammars | None = None,
        aside: Path | None = None,
    ) -> None:
        self.stage, self._runtime, self._boot, self._send, self._begun = stage, runtime, boot, send, begun
        self._executor = Executor(stage, aside)
        self.load = stage.load
        self._ring: RingPlace[Incoming, Outgoing] = RingPlace(self.load.plan, self.load.epoch)
        self._scheduler = self._new_scheduler()
        self._samplers = Samplers(self.load.deployment, grammars or Grammars())
        self._soundness = Soundness()
        self._produced = ProducedLog()
        self._journal = Journal(self.load.journal_bytes) if self.load.journal_bytes else None
        self._recomputing = Recomputing(self._executor, self._journal, runtime, begun)
        self.copies = StateCopies(self._executor.memory, self._ring, stage.device, self._journal)
        self._rests = False
        """On the first stage: whether no step is to begin before the next Link."""
        self._in_doubt = False
        """Whether a step failed half-way, so that no state is certain until the next Link."""
        self._resumed: dict[int, int] = {}
        """On the first stage: sequences that have yet to go on over the last Link, and how many of their tokens the
        states hold. One that comes again after that begins anew."""
        self._waits = Waits()
        """On the first stage."""

    def _new_scheduler(self, link: Link | None = None) -> Scheduler:
        load = self.load
        return Scheduler(
            load.kv_tokens,
            load.max_sequences,
            load.prefill_chunk,
            1 if link is None else link.lanes,
            whole_prompts=link is not None and link.whole_prompts,
            answers_alone=link is not None and link.answers_alone,
            reuse="no" if link is None else link.reuse,
            block=BLOCK if link is None else link.block_tokens,
            restarts_at=self.stage.slice.anatomy.restarts_at,
        )

    @property
    def epoch(self) -> int:
        return self._ring.epoch

    @property
    def dropped(self) -> int:
        """Messages that came too late, too early, or for nobody."""
        return self._ring.dropped

    @property
    def broken(self) -> bool:
        return self._ring.is_broken

    # --- control -----------------------------------------------------------------------------------

    def link(self, message: Link) -> None:
        """Begin a new epoch with no states but the resumed ones.

        Raises WireError for an epoch that is not newer, OutOfStep where a state cannot be cut back as wanted; then
        nothing has changed.
        """
        if self._ring.is_linked and message.epoch <= self.epoch:
            raise WireError(f"epoch {message.epoch} is not newer than {self.epoch}")
        if message.resumed and self._in_doubt:
            raise OutOfStep("a step failed half-way on this stage: none of its states can go on")
        self._executor.memory.check_resumed(message.resumed)
        self._ring.link(message.epoch)
        kept = self._scheduler.kept
        self._scheduler = self._new_scheduler(message)
        self._produced.clear()
        self._samplers.clear()
        self._soundness.forget_all()
        self._waits.clear()
        self._in_doubt = self._rests = False
        self._executor.memory.resume(message.resumed)
        self._recomputing.link(message.resumed)
        if self._journal is not None:
            self._journal.resume(message.resumed)
        if self.stage.is_first:
            self._scheduler.resume(message.resumed, kept)
            self._resumed = {each.sequence: each.length for each in message.resumed}

    def halt(self, message: Halt) -> Halted:
        """Run nothing until the next Link; what the stage holds. Raises UnknownStage for another epoch."""
        if message.epoch != self.epoch:
            raise UnknownStage(f"the stage is at epoch {self.epoch}, epoch {message.epoch} was to be halted")
        if message.rest:
            self._rests = True
            return Halted(call=message.call, states=(), under_way=self._ring.under_way)
        self._ring.fail()
        self._recomputing.stop("the stage was halted")
        states = {each.sequence: each for each in self._executor.memory.held()} if not self._in_doubt else {}
        if self.stage.is_first:  # it knows best whose turn is next, also of those that have not begun yet
            running = {
                number: states.pop(number, HeldState(number, 0, 0, "runs")) for number in self._scheduler.running
            }
            states = running | states
        if self._journal is not None:
            states = {number: replace(each, covered=self._journal.covers(number)) for number, each in states.items()}
        return Halted(call=message.call, states=tuple(states.values())[:MAX_STATES])

    def read_journal(self, message: ReadJournal) -> tuple[JournalPage, tuple[Buffer, ...]]:
        """What the next stage's states were computed from. Raises UnknownStage for another epoch."""
        if message.epoch != self.epoch:
            raise UnknownStage(f"the stage is at epoch {self.epoch}, the request was for epoch {message.epoch}")
        return self._recomputing.read(message)

    def recompute(self, message: Recompute, payload: tuple[Buffer, ...], answer: Answer) -> None:
        """Compute lost states again; `answer` is told when it is done. Raises an AgentError."""
        if message.epoch != self.epoch or not self._ring.runs:
            raise UnknownStage(f"the stage is at epoch {self.epoch}, the request was for epoch {message.epoch}")
        self._recomputing.add(message, payload, answer)

    def start(self, message: Start, payload: tuple[Buffer, ...], draining: bool, received: float | None = None) -> None:
        """Queue a sequence. Raises an AgentError when it can never run here."""
        if draining and not message.resumed:
            raise Draining("the node is being drained and takes no new requests")
        if not self.stage.is_first:
            raise UnknownStage("sequences start on the first stage")
        if message.epoch != self.epoch or not self._ring.runs:
            raise UnknownStage(f"the deployment is at epoch {self.epoch}, the request was for epoch {message.epoch}")
        tokens = from_frame(message.tokens, payload[0], torch.device("cpu")).tolist()
        if not 1 <= message.prompt_tokens <= len(tokens):
            raise WireError("a sequence needs at least one token of prompt")
        if not all(0 <= token < self.stage.vocab_size for token in tokens):
            raise WireError(f"a token id is outside the vocabulary of {self.stage.vocab_size}")
        if self._scheduler.holds(message.sequence):
            return  # the same Start again: it is queued already
        if message.held != self._resumed.get(message.sequence, 0) or message.held >= len(tokens):
            raise WireError(
                f"sequence {message.sequence} is to begin with {message.held} tokens in the caches; the stages were "
                f"linked with {self._resumed.get(message.sequence, 0)}, and at least one has to be left to compute"
            )
        sequence = Sequence(
            message.sequence, tokens, message.prompt_tokens, message.sampling, message.budget, message.group,
            held=message.held,
        )  # fmt: skip
        if sequence.capacity > min(self.load.kv_tokens, self.load.max_context):
            raise OutOfMemory(
                f"prompt and answer may come to {sequence.capacity} tokens; the deployment holds {self.load.kv_tokens} "
                f"tokens of KV cache and a context of {self.load.max_context}"
            )
        check_looked_back(sequence)
        if self._scheduler.whole_prompts:
            widest = MAX_FRAME_BYTES // (self.stage.hidden_size * self.stage.dtype.itemsize) - self.load.prefill_chunk
            check_whole_prompt(sequence, widest, answers_alone=self._scheduler.answers_alone)
        self._scheduler.add(sequence)
        self._resumed.pop(message.sequence, None)
        self._produced.begin(sequence.number, sequence.given)
        self._waits.begin(message.sequence, time.monotonic() if received is None else received)

    def cancel(self, sequence: int) -> None:
        self._scheduler.cancel(sequence)
        self._resumed.pop(sequence, None)
        self._produced.forget(sequence)
        self._waits.end(sequence)

    def produced(self, message: CatchUp) -> tuple[Produced, ...]:
        """What sequences have brought that the controller may have missed. Raises UnknownStage for another epoch."""
        if message.epoch != self.epoch or not self._ring.runs:
            raise UnknownStage(f"the deployment is at epoch {self.epoch}, epoch {message.epoch} was asked for")
        return self._produced.since(message.sequences, time.monotonic())

    def close(self) -> None:
        """Let go of what sequences hold. The stage cannot run any more."""
        self._recomputing.stop("the stage was unloaded")
        self._executor.close()

    def drop_sequences(self) -> None:
        self._scheduler.cancel_all()
        self._resumed.clear()
        self._produced.clear()
        self._waits.clear()

    # --- data --------------------------------------------------------------------------------------

    def arrived(self, step: Step, payload: tuple[Buffer, ...], received: float | None = None) -> None:
        """A step from the stage before. `received` is when it came off the wire: it waits from then on."""
        at = time.monotonic() if received is None else received
        plan = step.plan if step.stage == self.load.stage else ""
        match self._ring.arrived(plan, step.epoch, step.boot, step.step, Incoming(step, payload), at):
            case Verdict.AGAIN:
                for outgoing in self._ring.again(step.step):
                    self._send(outgoing)
            case Verdict.RESTARTED:
                self._fault(AgentError("the agent before this one was restarted and has forgotten its caches"), ())

    def came_round(self, message: Tokens, received: float | None = None) -> None:
        """Tokens from the last stage, on the first. `received` is when they came off the wire."""
        awaited = self._ring.came_round(message.epoch, message.step, time.monotonic())
        if awaited is None:
            return
        self._produced.note(message, time.monotonic())
        self._waits.came_round(message, time.monotonic() if received is None else received)
        if not self._scheduler.returned(message) and not awaited:
            self._ring.dropped += 1

    def work(self) -> int:
        """Run one step if there is one; how many tokens it held, 0 when there was nothing to do."""
        if not self._ring.runs:
            return 0
        if self._recomputing.has_work:
            return self._recomputing.work()
        if self.stage.is_first:
            planned = None if self._rests else self._scheduler.next_step()
            return self._run_planned(planned) if planned is not None else 0
        arrival = self._ring.take()
        return 0 if arrival is None else self._run_arrived(arrival)

    @property
    def has_work(self) -> bool:
        return self._ring.has_waiting or self._recomputing.has_work

    def repeat_lost(self, now: float) -> None:
        """Send again what has not come round for too long: a reconnect may have lost it."""
        if overdue := self._ring.overdue(now):
            log.info("repeating %d steps of deployment %s that were not answered", len(overdue), self.load.deployment)
        for outgoing in overdue:
            self._send(outgoing)

    # --- running a step ----------------------------------------------------------------------------

    def _run_planned(self, planned: PlannedStep) -> int:
        began = time.monotonic()
        alone = planned.in_flight == 1
        step = Step(
            deployment=self.load.deployment,
            plan=self.load.plan,
            epoch=self.epoch,
            step=planned.number,
            stage=1,
            boot=self._boot,
            pieces=planned.pieces,
            released=planned.released,
            kept=planned.kept,
            aside=planned.aside,
            tensors=(),
            oldest=self._ring.oldest(planned.number),
            alone=alone,
        )
        given = torch.tensor(planned.tokens, dtype=torch.int64).to(self.stage.device)
        queued = self._waits.of(planned.pieces, (*planned.released, *planned.kept), began)
        if self.stage.is_last:
            tokens = self._compute_last(step, given, began, queued)
            self._waits.computed(planned.pieces, time.monotonic())
            if tokens is not None:
                self._produced.note(tokens, time.monotonic())
                self._scheduler.returned(tokens)
                self._waits.came_round(tokens, time.monotonic())
                self._send(self._out(Destination.CONTROLLER, tokens))
            return len(planned.tokens) or 1
        forwarded = self._compute_inner(step, given, began, queued)
        self._waits.computed(planned.pieces, time.monotonic())
        if forwarded is not None:
            outgoing = self._out(Destination.DOWNSTREAM, *forwarded)
            self._ring.sent(planned.number, outgoing, time.monotonic())
            self._send(outgoing)
        return len(planned.tokens) or 1

    def _run_arrived(self, arrival: Arrival[Incoming]) -> int:
        step, began = arrival.given.step, time.monotonic()
        given = torch.empty(0)
        if step.tensors:
            given = from_frame(step.tensors[0], arrival.given.payload[0], self.stage.device)
            if given.shape[1:] != (self.stage.hidden_size,) or given.dtype != self.stage.dtype:
                self._fault(WireError(f"hidden states of shape {tuple(given.shape)} do not fit the stage"), ())
                return 1
        outputs: tuple[Outgoing, ...]
        if self.stage.is_last:
            tokens = self._compute_last(step, given, began, began - arrival.at)
            outputs = (
                ()
                if tokens is None
                else (self._out(Destination.FIRST, tokens), self._out(Destination.CONTROLLER, tokens))
            )
        else:
            forwarded = self._compute_inner(step, given, began, began - arrival.at)
            outputs = () if forwarded is None else (self._out(Destination.DOWNSTREAM, *forwarded),)
        self._ring.brought(step.step, outputs, step.oldest)
        for outgoing in outputs:
            self._send(outgoing)
        return sum(piece.count for piece in step.pieces) or 1

    def _compute_inner(
        self, step: Step, given: torch.Tensor, began: float, queued: float
    ) -> tuple[Step, tuple[Buffer, ...]] | None:
        """Run a step and make of it the step for the next stage; None if it failed."""
        hidden = self._compute(step, given)
        if hidden is None:
            return None
        described: tuple[TensorFrame, ...] = ()
        payload: tuple[Buffer, ...] = ()
        if step.pieces:
            frame, data = to_frame(hidden)
            described, payload = (frame,), (data,)
        self._note(step, payload)
        onward = replace(
            step, stage=self.load.stage + 1, boot=self._boot, tensors=described,
            times=(*step.times, self._time(began, queued)),
        )  # fmt: skip
        return onward, payload

    def _compute_last(self, step: Step, given: torch.Tensor, began: float, queued: float) -> Tokens | None:
        """Run a step on the last stage and sample; None if it failed."""
        logits = self._compute(step, given)
        if logits is None:
            return None
        if self.load.stage:
            self._note(step, ())
        try:
            chosen = self._samplers.choose(step.pieces, logits, self._soundness.unsound)
        except (RuntimeError, ValueError, IndexError) as error:
            self._fault(error, step.pieces)
            return None
        for number, why in chosen.lost:
            self._lose(f"{why}, computed in {self.load.dtype}", (number,))
        return Tokens(
            deployment=step.deployment,
            epoch=step.epoch,
            step=step.step,
            tokens=chosen.tokens,
            prefilled=chosen.prefilled,
            times=(*step.times, self._time(began, queued)),
            scored=chosen.scored,
            cached=tuple(
                (piece.sequence, piece.admission.shared.tokens)
                for piece in step.pieces
                if piece.admission is not None and piece.admission.shared is not None
            ),
        )

    def _compute(self, step: Step, given: torch.Tensor) -> torch.Tensor | None:
        """Run the model; None if it failed, which the controller is told."""
        try:
            for number in (*step.released, *step.kept):
                self._samplers.forget(number)
                self._soundness.forget(number)
            admitted = tuple(self._admitted(piece) for piece in step.pieces if self._begins(piece, step))
            if self.stage.is_last:
                self._samplers.begin(step.pieces)
            if step.pieces:
                self._runtime.apply(alone=step.alone)
                self._begun(len(given))
            turns = tuple(
                Turn(piece.sequence, piece.position, piece.count, self._samplers.wanted(piece)) for piece in step.pieces
            )
            output = self._executor.step(StepPlan(turns, given, step.released, step.kept, step.aside, admitted))
            if turns and (found := self._soundness.look(turns, given, output, self.stage.is_last)):
                message = overflow(f"layers {self.load.start}-{self.load.end - 1}", self.load.dtype)
                log.warning("sequences %s of deployment %s: %s", found, self.load.deployment, message)
                # Their numbers go on as they are, so that the last stage makes no token of them.
                self._lose(message, found)
            return output
        except Exception as error:
            self.give_up(error, step.pieces)
            return None

    def _note(self, step: Step, hidden: tuple[Buffer, ...]) -> None:
        """Take down what the next stage is about to compute with."""
        if self._journal is not None:
            self._journal.note(step.pieces, self._executor.slots, step.released, step.kept, hidden, step.alone)

    def _begins(self, piece: Piece, step: Step) -> bool:
        """Whether a piece is its sequence's first one here; one that begins anew is released by the same step."""
        here = piece.sequence in self._executor.memory and piece.sequence not in step.released
        return piece.admission is not None and not here

    def _admitted(self, piece: Piece) -> Admitted:
        admission = piece.admission
        assert admission is not None
        return Admitted(piece.sequence, admission.total_tokens, admission.shared)

    def _lose(self, message: str, sequences: tuple[int, ...]) -> None:
        """Tell the controller that the numbers of these are none any more; the others go on: each has its own rows."""
        self._send(self._out(Destination.CONTROLLER, self._fault_of(NotFinite.kind, message, sequences, goes_on=True)))

    def give_up(self, error: Exception, pieces: tuple[Piece, ...] = ()) -> None:
        """Something went wrong half-way: no state is certain, and nothing runs until the next Link."""
        self._in_doubt = True
        self._fault(error, pieces)

    def _fault(self, error: Exception, pieces: tuple[Piece, ...]) -> None:
        """Tell the controller and stop until the next Link: after half a step the caches are in doubt."""
        if not isinstance(error, AgentError):
            log.exception("a step of deployment %s failed", self.load.deployment, exc_info=error)
        kind = getattr(error, "kind", "memory" if isinstance(error, MemoryError) else "internal")
        self._ring.fail()
        self._recomputing.stop("the stage has failed")
        message = f"{error}"[:4000] or type(error).__name__
        fault = self._fault_of(kind, message, tuple(piece.sequence for piece in pieces))
        self._send(self._out(Destination.CONTROLLER, fault))

    def _fault_of(self, kind: str, message: str, sequences: tuple[int, ...], goes_on: bool = False) -> StageFault:
        load = self.load
        return StageFault(
            deployment=load.deployment,
            epoch=self.epoch,
            stage=load.stage,
            kind=kind,
            message=message,
            sequences=sequences,
            goes_on=goes_on,
        )

    def _out(self, to: Destination, message: Message, payload: tuple[Buffer, ...] = ()) -> Outgoing:
        return Outgoing(self.load.deployment, self.load.stage, to, message, payload)

    def _time(self, began: float, queued: float) -> StageTime:
        return StageTime(self.load.stage, int(queued * 1e6), int((time.monotonic() - began) * 1e6))

    def info(self) -> StageInfo:
        """What the agent reports of the stage."""
        return self._executor.info(self.epoch, 0 if self._journal is None else self._journal.nbytes)
