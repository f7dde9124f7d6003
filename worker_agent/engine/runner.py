"""One stage at work: steps in, steps or tokens out. Lives in the compute thread alone.

The first stage plans its steps (`scheduler.py`), later ones take them as they come (`gate.py`); the last
one samples (`sampling.py`). A stage of a pipeline of one does all of it, and its tokens never leave the
process on their way back.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from worker_agent.engine.gate import Gate, Verdict
from worker_agent.engine.grammars import Follower, Grammars
from worker_agent.engine.outgoing import Destination, Outgoing
from worker_agent.engine.runtime import Runtime
from worker_agent.engine.sampling import Sampler
from worker_agent.engine.scheduler import PlannedStep, Scheduler, Sequence, check_whole_prompt
from worker_agent.engine.soundness import Soundness, overflow
from worker_agent.engine.stage import Row, Stage
from worker_agent.engine.tensors import from_frame, to_frame
from worker_agent.wire.errors import AgentError, Draining, NotFinite, OutOfMemory, OutOfStep, UnknownStage, WireError
from worker_agent.wire.messages import (
    MAX_FRAME_BYTES,
    Admission,
    Buffer,
    Link,
    Message,
    Scored,
    Slice,
    StageFault,
    StageInfo,
    StageTime,
    Start,
    Step,
    TensorFrame,
    Token,
    Tokens,
)

log = logging.getLogger(__name__)

RESEND_SECONDS = 2.0
"""A step that has not come round after this long, or 8 times the slowest recent round, is sent once more."""


@dataclass(slots=True)
class Arrived:
    """A step that waits for its turn."""

    step: Step
    payload: tuple[Buffer, ...]
    at: float


@dataclass(slots=True)
class Unanswered:
    """A step of the first stage that has not come round yet."""

    step: Step
    payload: tuple[Buffer, ...]
    sent_at: float


class Runner:
    """A stage, its place in the ring and the steps that wait for it.

    Args:
        send: takes an Outgoing; called from the compute thread.
        begun: told how many tokens a step holds just before it is computed.
    """

    def __init__(
        self,
        stage: Stage,
        runtime: Runtime,
        boot: str,
        send: Callable[[Outgoing], None],
        begun: Callable[[int], None] = lambda tokens: None,
        grammars: Grammars | None = None,
    ) -> None:
        self.stage, self._runtime, self._boot, self._send, self._begun = stage, runtime, boot, send, begun
        self._grammars = grammars or Grammars()
        self._ways = stage.ways.report()
        self.load = stage.load
        self.epoch = stage.load.epoch
        self.linked = False
        self.broken = False
        """A step failed in a way that leaves the caches in doubt; nothing runs until the next Link."""
        self.dropped = 0
        self._gate = Gate(self.load.plan, self.epoch)
        self._scheduler = self._new_scheduler()
        self._samplers: dict[int, Sampler] = {}
        self._soundness = Soundness()
        self._arrived: deque[Arrived] = deque()
        self._unanswered: OrderedDict[int, Unanswered] = OrderedDict()
        self._rounds: deque[float] = deque(maxlen=100)
        self._outputs: OrderedDict[int, tuple[Outgoing, ...]] = OrderedDict()
        self._ready: dict[int, float] = {}
        """On the first stage: since when each sequence could go on, but for others."""

    def _new_scheduler(self, *, whole_prompts: bool = False) -> Scheduler:
        load = self.load
        return Scheduler(
            load.kv_tokens,
            load.max_sequences,
            load.prefill_chunk,
            load.lanes,
            whole_prompts=whole_prompts,
            restarts_at=self.stage.slice.anatomy.restarts_at,
        )

    # --- control -----------------------------------------------------------------------------------

    def link(self, message: Link) -> None:
        """Begin a new epoch with empty caches. Raises WireError for an epoch that is not newer."""
        if self.linked and message.epoch <= self.epoch:
            raise WireError(f"epoch {message.epoch} is not newer than {self.epoch}")
        self.epoch, self.linked, self.broken = message.epoch, True, False
        self._gate = Gate(self.load.plan, self.epoch)
        self._scheduler = self._new_scheduler(whole_prompts=message.whole_prompts)
        self._samplers.clear()
        self._soundness.forget_all()
        self._arrived.clear()
        self._unanswered.clear()
        self._outputs.clear()
        self._ready.clear()
        self.stage.release_all()

    def start(self, message: Start, payload: tuple[Buffer, ...], draining: bool, received: float | None = None) -> None:
        """Queue a sequence. Raises an AgentError when it can never run here."""
        if draining:
            raise Draining("the node is being drained and takes no new requests")
        if not self.stage.is_first:
            raise UnknownStage("sequences start on the first stage")
        if message.epoch != self.epoch or not self.linked or self.broken:
            raise UnknownStage(f"the deployment is at epoch {self.epoch}, the request was for epoch {message.epoch}")
        tokens = from_frame(message.tokens, payload[0], torch.device("cpu")).tolist()
        if not 1 <= message.prompt_tokens <= len(tokens):
            raise WireError("a sequence needs at least one token of prompt")
        if not all(0 <= token < self.stage.vocab_size for token in tokens):
            raise WireError(f"a token id is outside the vocabulary of {self.stage.vocab_size}")
        if self._scheduler.holds(message.sequence):
            return  # the same Start again: it is queued already
        sequence = Sequence(message.sequence, tokens, message.prompt_tokens, message.sampling, message.budget)
        if sequence.capacity > min(self.load.kv_tokens, self.load.max_context):
            raise OutOfMemory(
                f"prompt and answer may come to {sequence.capacity} tokens; the deployment holds {self.load.kv_tokens} "
                f"tokens of KV cache and a context of {self.load.max_context}"
            )
        if self._scheduler.whole_prompts:
            widest = MAX_FRAME_BYTES // (self.stage.hidden_size * self.stage.dtype.itemsize) - self.load.prefill_chunk
            check_whole_prompt(sequence, widest)
        self._scheduler.add(sequence)
        self._ready[message.sequence] = time.monotonic() if received is None else received

    def cancel(self, sequence: int) -> None:
        self._scheduler.cancel(sequence)
        self._ready.pop(sequence, None)

    def drop_sequences(self) -> None:
        self._scheduler.cancel_all()
        self._ready.clear()

    # --- data --------------------------------------------------------------------------------------

    def arrived(self, step: Step, payload: tuple[Buffer, ...], received: float | None = None) -> None:
        """A step from the stage before. `received` is when it came off the wire: it waits from then on."""
        if not self.linked or self.broken or step.stage != self.load.stage:
            self.dropped += 1
            return
        waiting = self._arrived[-1].step.step if self._arrived else self._gate.last_step
        if step.epoch == self.epoch and self._gate.last_step < step.step <= waiting:
            return  # it is here already and waits for its turn
        match Gate(self._gate.plan, self._gate.epoch, self._gate.boot, waiting).judge(
            step.plan, step.epoch, step.boot, step.step
        ):
            case Verdict.RUN:
                self._arrived.append(Arrived(step, payload, time.monotonic() if received is None else received))
            case Verdict.RESEND:
                for outgoing in self._outputs.get(step.step, ()):
                    self._send(outgoing)
            case Verdict.RESTARTED:
                self._fault(AgentError("the agent before this one was restarted and has forgotten its caches"), ())
            case Verdict.DROP:
                self.dropped += 1

    def came_round(self, message: Tokens, received: float | None = None) -> None:
        """Tokens from the last stage, on the first. `received` is when they came off the wire."""
        if message.epoch != self.epoch or not self.linked:
            self.dropped += 1
            return
        unanswered = self._unanswered.pop(message.step, None)
        if unanswered is not None:
            self._rounds.append(time.monotonic() - unanswered.sent_at)
        self._can_go_on(message, time.monotonic() if received is None else received)
        if not self._scheduler.returned(message):
            self.dropped += unanswered is None

    def work(self) -> int:
        """Run one step if there is one; how many tokens it held, 0 when there was nothing to do."""
        if not self.linked or self.broken:
            return 0
        if self.stage.is_first:
            planned = self._scheduler.next_step()
            return self._run_planned(planned) if planned is not None else 0
        return self._run_arrived(self._arrived.popleft()) if self._arrived else 0

    @property
    def has_work(self) -> bool:
        return bool(self._arrived)

    def repeat_lost(self, now: float) -> None:
        """Send again what has not come round for too long: a reconnect may have lost it."""
        if not self._unanswered or self.stage.is_last:
            return
        patience = max(RESEND_SECONDS, 8 * max(self._rounds, default=0.0))
        if now - next(iter(self._unanswered.values())).sent_at < patience:
            return
        log.info(
            "repeating %d steps of deployment %s that were not answered", len(self._unanswered), self.load.deployment
        )
        for unanswered in self._unanswered.values():
            unanswered.sent_at = now
            self._send(self._out(Destination.DOWNSTREAM, unanswered.step, unanswered.payload))

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
            slices=planned.slices,
            released=planned.released,
            tensors=(),
            oldest=next(iter(self._unanswered), planned.number),
            alone=alone,
        )
        given = torch.tensor(planned.tokens, dtype=torch.int64).to(self.stage.device)
        queued = self._waited(planned, began)
        if self.stage.is_last:
            tokens = self._compute_last(step, given, began, queued)
            self._computed(planned)
            if tokens is not None:
                self._scheduler.returned(tokens)
                self._can_go_on(tokens, time.monotonic())
                self._send(self._out(Destination.CONTROLLER, tokens))
            return len(planned.tokens) or 1
        forwarded = self._compute_inner(step, given, began, queued)
        self._computed(planned)
        if forwarded is not None:
            self._unanswered[planned.number] = Unanswered(*forwarded, sent_at=time.monotonic())
            self._send(self._out(Destination.DOWNSTREAM, *forwarded))
        return len(planned.tokens) or 1

    def _waited(self, planned: PlannedStep, began: float) -> float:
        """How long all that is in a step of the first stage could have gone on, but for others.

        The shortest wait of its sequences: a step has one figure, and no token may have waited longer than it took.
        """
        for number in planned.released:
            self._ready.pop(number, None)
        waits = [began - self._ready.get(piece.sequence, began) for piece in planned.slices]
        return max(0.0, min(waits, default=0.0))

    def _computed(self, planned: PlannedStep) -> None:
        """The next chunk of a prompt need not wait until this one has come round."""
        now = time.monotonic()
        for piece in planned.slices:
            if piece.sequence in self._ready:
                self._ready[piece.sequence] = now

    def _can_go_on(self, message: Tokens, at: float) -> None:
        """What has come round can go into the next step from then on."""
        for number in (*(token.sequence for token in message.tokens), *(number for number, _ in message.prefilled)):
            if number in self._ready:
                self._ready[number] = at

    def _run_arrived(self, arrived: Arrived) -> int:
        step, began = arrived.step, time.monotonic()
        self._gate.ran(step.boot, step.step)
        given = torch.empty(0)
        if step.tensors:
            given = from_frame(step.tensors[0], arrived.payload[0], self.stage.device)
            if given.shape[1:] != (self.stage.hidden_size,) or given.dtype != self.stage.dtype:
                self._fault(WireError(f"hidden states of shape {tuple(given.shape)} do not fit the stage"), ())
                return 1
        outputs: tuple[Outgoing, ...]
        if self.stage.is_last:
            tokens = self._compute_last(step, given, began, began - arrived.at)
            outputs = (
                ()
                if tokens is None
                else (self._out(Destination.FIRST, tokens), self._out(Destination.CONTROLLER, tokens))
            )
        else:
            forwarded = self._compute_inner(step, given, began, began - arrived.at)
            outputs = () if forwarded is None else (self._out(Destination.DOWNSTREAM, *forwarded),)
        self._keep(step, outputs)
        for outgoing in outputs:
            self._send(outgoing)
        return sum(piece.count for piece in step.slices) or 1

    def _keep(self, step: Step, outputs: tuple[Outgoing, ...]) -> None:
        """Keep what a step brought for as long as it may be asked for again: until it has come round."""
        self._outputs[step.step] = outputs
        for number in [number for number in self._outputs if number < step.oldest]:
            del self._outputs[number]

    def _compute_inner(
        self, step: Step, given: torch.Tensor, began: float, queued: float
    ) -> tuple[Step, tuple[Buffer, ...]] | None:
        """Run a step and make of it the step for the next stage; None if it failed."""
        hidden = self._compute(step, given)
        if hidden is None:
            return None
        described: tuple[TensorFrame, ...] = ()
        payload: tuple[Buffer, ...] = ()
        if step.slices:
            frame, data = to_frame(hidden)
            described, payload = (frame,), (data,)
        onward = Step(
            deployment=step.deployment,
            plan=step.plan,
            epoch=step.epoch,
            step=step.step,
            stage=self.load.stage + 1,
            boot=self._boot,
            slices=step.slices,
            released=step.released,
            tensors=described,
            oldest=step.oldest,
            alone=step.alone,
            times=(*step.times, self._time(began, queued)),
        )
        return onward, payload

    def _compute_last(self, step: Step, given: torch.Tensor, began: float, queued: float) -> Tokens | None:
        """Run a step on the last stage and sample; None if it failed."""
        logits = self._compute(step, given)
        if logits is None:
            return None
        tokens: list[Token] = []
        prefilled: list[tuple[int, int]] = []
        scored: list[Scored] = []
        at = 0
        try:
            for piece in step.slices:
                end = piece.position + piece.count
                sampler = self._samplers[piece.sequence]
                wanted = logits[at : at + len(self._row(piece).wanted)]
                at += len(wanted)
                if piece.sequence in self._soundness.unsound:
                    if piece.sample:
                        tokens.append(Token(piece.sequence, end, 0, "numbers"))
                    continue
                try:
                    if self._scores(piece):
                        scores = sampler.prompt_scores(piece.position + 1, wanted)
                        scored.append(Scored(piece.sequence, piece.position + 1, scores))
                    if piece.sample:
                        tokens.append(sampler.token(piece.sequence, end, wanted[-1]))
                except NotFinite as error:
                    self._lose(f"{error}, computed in {self.load.dtype}", (piece.sequence,))
                    if piece.sample:
                        tokens.append(Token(piece.sequence, end, 0, "numbers"))
                if not piece.sample:
                    prefilled.append((piece.sequence, end))
        except (RuntimeError, ValueError, IndexError) as error:
            self._fault(error, step.slices)
            return None
        return Tokens(
            deployment=step.deployment,
            epoch=step.epoch,
            step=step.step,
            tokens=tuple(tokens),
            prefilled=tuple(prefilled),
            times=(*step.times, self._time(began, queued)),
            scored=tuple(scored),
        )

    def _row(self, piece: Slice) -> Row:
        return Row(piece.sequence, piece.position, piece.count, piece.sample, self._scores(piece))

    def _scores(self, piece: Slice) -> bool:
        """Whether the log probabilities of a piece of a prompt are wanted here."""
        sampler = self._samplers.get(piece.sequence)
        if sampler is None or sampler.sampling.prompt_logprobs < 0:
            return False
        return piece.position + 1 < sampler.admission.prompt_tokens

    def _compute(self, step: Step, given: torch.Tensor) -> torch.Tensor | None:
        """Free and admit sequences and run the model; None if it failed, which the controller is told."""
        try:
            for number in step.released:
                self.stage.release(number)
                self._samplers.pop(number, None)
                self._soundness.forget(number)
            for piece in step.slices:
                self._admit(piece)
            if not step.slices:
                return given
            self._runtime.apply(alone=step.alone)
            self._begun(len(given))
            rows = [self._row(piece) for piece in step.slices]
            output = self.stage.run(rows, given)
            if found := self._soundness.look(rows, given, output, self.stage.is_last):
                message = overflow(f"layers {self.load.start}-{self.load.end - 1}", self.load.dtype)
                log.warning("sequences %s of deployment %s: %s", found, self.load.deployment, message)
                # Their numbers go on as they are, so that the last stage makes no token of them.
                self._lose(message, found)
            return output
        except (AgentError, RuntimeError, ValueError, TypeError, IndexError, KeyError, MemoryError) as error:
            self._fault(error, step.slices)
            return None

    def _admit(self, piece: Slice) -> None:
        if piece.admission is not None and not self.stage.holds(piece.sequence):
            self.stage.admit(piece.sequence, piece.admission.capacity, piece.admission.total_tokens)
            if self.stage.is_last:
                self._samplers[piece.sequence] = Sampler(piece.admission, follower=self._follower(piece.admission))
        held = self.stage.length(piece.sequence) if self.stage.holds(piece.sequence) else 0
        if piece.position != held:
            raise OutOfStep(f"a step at position {piece.position} came to a KV cache of {held} tokens")

    def _follower(self, admission: Admission) -> Follower | None:
        name = admission.sampling.constraint
        return None if name is None else self._grammars.follower(self.load.deployment, name, admission.budget.eos)

    def _lose(self, message: str, sequences: tuple[int, ...]) -> None:
        """Tell the controller that the numbers of these are none any more; the others go on: each has its own rows."""
        self._send(self._out(Destination.CONTROLLER, self._fault_of(NotFinite.kind, message, sequences, goes_on=True)))

    def _fault(self, error: Exception, slices: tuple[Slice, ...]) -> None:
        """Tell the controller and stop until the next Link: after half a step the caches are in doubt."""
        if not isinstance(error, AgentError):
            log.exception("a step of deployment %s failed", self.load.deployment, exc_info=error)
        kind = getattr(error, "kind", "memory" if isinstance(error, MemoryError) else "internal")
        self.broken = True
        self._arrived.clear()
        self._unanswered.clear()
        message = f"{error}"[:4000] or type(error).__name__
        fault = self._fault_of(kind, message, tuple(piece.sequence for piece in slices))
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
        load, stage = self.load, self.stage
        return StageInfo(
            deployment=load.deployment,
            plan=load.plan,
            epoch=self.epoch,
            stage=load.stage,
            stages=load.stages,
            start=load.start,
            end=load.end,
            model=load.model,
            weight_bytes=stage.weight_bytes,
            kv_bytes=stage.kv_bytes,
            kv_tokens=load.kv_tokens,
            kv_used_tokens=stage.used_tokens,
            kv_held_bytes=stage.kv_held_bytes,
            sequences=stage.sequences,
            ways=self._ways,
        )
