"""A deployment that is linked: its stages in order, its epoch, and the sequences that run through it.

Starts and cancels sequences on the first stage and hands what comes out of the last one to whoever waits for it. What
was missed on the way is asked for again. When a stage is lost the sequences are kept: whoever mends the pipeline links
it anew, perhaps over other nodes, and they go on from the tokens that they have.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from collections.abc import Sequence as Many

from msgspec.structs import replace

from app.cluster.agent_link import RingMessage
from app.errors import NodeError, ShardboardError
from app.inference.cut_lines import CutLines
from app.inference.events import StepPassed
from app.inference.grammar_sender import GrammarSender
from app.inference.recomputing import recompute, uncovered
from app.inference.resumption import resumption
from app.inference.sequence import Sequence
from app.inference.stage_faults import BETWEEN_AGENTS, stage_error
from app.inference.stages import PipelineStage, links
from app.inference.under_way import UnderWay
from worker_agent.wire.messages import (
    MAX_CAUGHT_UP,
    Cancel,
    CatchUp,
    DType,
    Halt,
    Produced,
    Resumed,
    StageFault,
    StageTime,
    Start,
    TensorFrame,
    Token,
    Tokens,
)

log = logging.getLogger(__name__)

LINK_SECONDS = 20.0
DOUBT_SECONDS = 3.0
"""How long nothing may come round when there are signs that a stage is lost: a connection between two agents broke, or
a node does not answer its controller. Connections come back by themselves, and what was lost on them is sent again."""
ASK_SECONDS = 4.0
"""Sequences that wait while every stage is idle for so long: what they brought may have been lost on its way here."""
STALL_SECONDS = 20.0
"""After so long a message between the stages was lost for good."""
BREAKING = frozenset({"lost", "timeout", "refused", "wrong_key", "not_allowed", "version", "unknown_stage"})
"""Kinds of errors that concern a stage and all that runs through it."""


class Pipeline:
    """Stages linked in a ring, and who waits for what comes out of it. Belongs to the controller's loop.

    Args:
        deployment: its id.
        stages: in order.
        is_idle: whether a node's compute thread is known to be idle, for the stall rule.
        on_step: told of every step that has come round.
        dtype: what the stages compute in; errors name it.
        on_interrupted: told when sequences wait for the pipeline to be mended; None if nobody mends it.
    """

    def __init__(
        self,
        deployment: str,
        stages: Many[PipelineStage],
        is_idle: Callable[[int], bool],
        on_step: Callable[[StepPassed], None] = lambda step: None,
        dtype: str = "",
        on_interrupted: Callable[[Pipeline], None] | None = None,
    ) -> None:
        self.deployment, self._is_idle, self.dtype = deployment, is_idle, dtype
        self._on_step, self._on_interrupted = on_step, on_interrupted
        self.epoch = 0
        self.broken: NodeError | None = None
        """Why nothing runs until the next `link`."""
        self.closed = False
        self.successor: Pipeline | None = None
        """Where what comes too late for this one is started."""
        self.under_way = UnderWay()
        self._heard = 0.0
        self._doubt: tuple[float, NodeError] | None = None
        self._cut = CutLines()
        self._awaited: dict[int, int] = {}
        """Sequences whose states stayed over the last link and that have to be started, and their states' lengths."""
        self._keeps_states = False
        self._grammars = GrammarSender(deployment)
        self._missed: asyncio.Task[None] | None = None
        self._stop_listening: list[Callable[[], None]] = []
        self.stages: tuple[PipelineStage, ...] = ()
        self.restage(stages)

    @property
    def active(self) -> int:
        """Sequences under way, or waiting for the pipeline to be mended."""
        return len(self.under_way)

    @property
    def heard(self) -> float:
        """When something came round last, by the loop's clock."""
        return self._heard

    def holds_node(self, node_id: int) -> bool:
        return any(stage.node_id == node_id for stage in self.stages)

    @property
    def cut_off(self) -> int | None:
        """The stage that the others cannot reach, though the controller may: nothing has come round since the ring was
        linked last, and an agent has said why. None where that is not so."""
        return self._cut.off

    def restage(self, stages: Many[PipelineStage]) -> None:
        """Where the stages are from the next `link` on."""
        for stop in self._stop_listening:
            stop()
        self.stages = tuple(stages)
        self._stop_listening = [link.on_ring(self._on_ring) for link in {id(s.link): s.link for s in stages}.values()]

    def pause(self, reason: NodeError) -> None:
        """Nothing runs before the next `link`, which whoever calls this sees to: no stage was lost."""
        self.broken, self._doubt = reason, None
        for sequence in self.under_way.values():
            sequence.sink.interrupted(reason)

    async def halted(self, lost: Many[int] = (), *, keeps: bool = True) -> tuple[Resumed, ...]:
        """Stop every stage that is left in the midst of its epoch: what of the states goes on.

        Args:
            lost: stages whose states have to be computed again, from the journals of others.
            keeps: whether what was kept for later prompts may go on, if no stage was lost.

        Raises NodeError.
        """
        left = [stage for stage in self.stages if stage.stage not in lost]
        answers = await asyncio.gather(
            *(
                stage.link.call(Halt(call=0, deployment=self.deployment, stage=stage.stage, epoch=self.epoch))
                for stage in left
            )
        )
        held = {stage.stage: answer.states for stage, answer in zip(left, answers, strict=True)}
        if not held:
            return ()
        bare = uncovered(lost, held)
        certain = {number: sequence.certain for number, sequence in self.under_way.items()}
        found = resumption(held, certain, all_left=keeps and not lost)
        return tuple(replace(each, length=0) if each.sequence in bare else each for each in found)

    async def recompute(self, lost: Many[int], resumed: Many[Resumed]) -> None:
        """Have the states of lost stages computed again, between `link` and `resume`. Raises NodeError."""
        await recompute(self.deployment, self.epoch, self.stages, lost, resumed, self.under_way.tokens_of)

    async def link(self, epoch: int, resumed: Many[Resumed] = ()) -> None:
        """Connect the stages in a ring under a new epoch; what ran before goes on with the tokens that it has.

        Last stage first: when the first one begins to send, all others are ready.

        Args:
            resumed: whose states stay, as `halted` has it; else all of them are dropped.

        Raises NodeError; of the kind `position` when a stage does not have what was to stay.
        """
        self.broken = self.broken or NodeError("The deployment is being connected anew.", kind="lost")
        for stage, message in links(self.deployment, self.stages, epoch, resumed):
            await stage.link.call(message, seconds=LINK_SECONDS)
        self.epoch, self.broken, self._doubt = epoch, None, None
        self._cut.linked()
        self._awaited = {each.sequence: each.length for each in resumed if each.kind != "kept"}
        self._keeps_states = bool(resumed)
        self._heard = asyncio.get_running_loop().time()

    async def resume(self, what: str, *, alike: bool = True) -> None:
        """Start again what was interrupted, after `link`.

        Args:
            what: was done for that, in a sentence.
            alike: whether all stages are computed as before; on another kind of machine low bits may be others.

        Raises NodeError if a stage is lost meanwhile.
        """
        await self._start_again(list(self.under_way.values()), what, kept=self._keeps_states and alike)
        for number in list(self._awaited):  # the first stage waits for all that were to go on
            await self._cancel(number)

    async def start(self, sequence: Sequence) -> None:
        """Start a sequence. One that a lost stage keeps from starting waits with the others.

        Raises:
            NodeError; RequestError: the constraint cannot be followed.
        """
        if self.successor is not None:
            await self.successor.start(sequence)
            return
        if not self.under_way:
            self._heard = asyncio.get_running_loop().time()
        self.under_way.admit(sequence, self)
        if self.broken is not None:
            if self.closed or self._on_interrupted is None:
                self.under_way.drop(sequence)
                raise self.broken
            self._on_interrupted(self)
            return
        try:
            await self._hand_over(sequence)
        except asyncio.CancelledError:
            await asyncio.shield(self.cancel(sequence))  # the agent may have it already, and would compute for nobody
            raise
        except ShardboardError as error:
            if self._on_interrupted is not None and self._breaks(error):
                assert isinstance(error, NodeError)
                self.interrupt(error)
                return
            self.under_way.drop(sequence)
            raise

    async def join(self, epoch: int) -> None:
        """Take over a ring that an earlier controller linked, as it is: what runs there goes on. Raises NodeError."""
        self.epoch = epoch
        for stage in self.stages:  # each agent then sends here what it has to tell
            await stage.link.call(CatchUp(call=0, deployment=self.deployment, epoch=epoch, stage=stage.stage))
        self._heard = asyncio.get_running_loop().time()

    async def go_on(self, sequence: Sequence, number: int, epoch: int) -> None:
        """Follow a sequence that an earlier controller started, under the number that it has; start it if it has none.

        Raises as `start` does.
        """
        if epoch != self.epoch or self.broken is not None:
            await self.start(sequence)
            return
        sequence.number, sequence.pipeline, sequence.times_started = number, self, 1
        self.under_way[number] = sequence
        sequence.sink.resumed("the next controller found it under way", True, self.stages)
        self.catch_up()

    def adopt(self, sequences: Many[Sequence]) -> Many[Sequence]:
        """Take over what another pipeline has released; `resume` or `start_adopted` starts it."""
        for sequence in sequences:
            self.under_way.admit(sequence, self)
        return sequences

    async def start_adopted(self, sequences: Many[Sequence], what: str) -> None:
        """Start what was adopted, beside what runs here; its tokens are read anew.

        Args:
            what: was done, in a sentence.
        """
        try:
            await self._start_again(sequences, what)
        except NodeError:  # they wait here with the others
            if self._on_interrupted is not None:
                self._on_interrupted(self)

    async def _start_again(self, sequences: Many[Sequence], what: str, *, kept: bool = False) -> None:
        """Start sequences that ran before, those that are still wanted and that nobody has started since.

        Args:
            kept: whether a sequence all of whose states stayed goes on to the bit in half precision, too.

        Raises NodeError if a stage is lost.
        """
        begun = {sequence.number: sequence.times_started for sequence in sequences}
        for sequence in sequences:
            if self.broken is not None:
                raise self.broken
            if sequence.number not in self.under_way or sequence.times_started != begun[sequence.number]:
                continue
            held = self._awaited.get(sequence.number, 0)
            exact = self.dtype == "float32" or (kept and held == sequence.certain)
            try:
                await self._hand_over(sequence)
            except ShardboardError as error:
                if self._breaks(error) and isinstance(error, NodeError):
                    self.interrupt(error)
                    raise
                self.under_way.drop(sequence)
                sequence.sink.failed(error)
                await self._cancel(sequence.number)
            else:
                if sequence.times_started > 1:
                    sequence.sink.resumed(what, exact, self.stages)

    def release(self) -> list[Sequence]:
        """Let go of all sequences, for another pipeline to adopt them."""
        return self.under_way.release()

    async def _hand_over(self, sequence: Sequence) -> None:
        epoch = self.epoch
        if sequence.constraint is not None:
            await self._grammars.make_ready(
                self.stages[-1].link, sequence.constraint, sequence.budget.eos, sequence.tokenizer
            )
            if self.broken is not None:
                raise self.broken
        row = struct.pack(f"<{len(sequence.tokens)}i", *sequence.tokens)
        message = Start(
            call=0,
            deployment=self.deployment,
            epoch=epoch,
            sequence=sequence.number,
            prompt_tokens=sequence.prompt_tokens,
            sampling=sequence.sampling_left(),
            budget=sequence.budget,
            tokens=TensorFrame(DType.INT32, (len(sequence.tokens),)),
            group=sequence.group,
            resumed=sequence.times_started > 0,
            held=self._awaited.pop(sequence.number, 0),
        )
        sequence.times_started += 1
        sequence.sink.handed_over(self.deployment, sequence.number, epoch)
        await self.stages[0].link.call(message, (row,))

    def _breaks(self, error: ShardboardError) -> bool:
        """Whether an error concerns the pipeline and all that runs through it, not one sequence."""
        return isinstance(error, NodeError) and error.kind in BREAKING

    async def cancel(self, sequence: Sequence) -> None:
        """End a sequence and free its KV. An agent that cannot be reached is no error: it frees it by itself."""
        self.under_way.drop(sequence)
        if self.broken is None and sequence.times_started:
            await self._cancel(sequence.number)

    async def _cancel(self, number: int) -> None:
        self._awaited.pop(number, None)
        message = Cancel(call=0, deployment=self.deployment, epoch=self.epoch, sequence=number)
        try:
            await self.stages[0].link.call(message, seconds=5.0)
        except NodeError as error:
            log.info("a cancel did not reach %s: %s", self.stages[0].node_name, error)

    def interrupt(self, error: NodeError) -> None:
        """A stage is lost: nothing runs before the next `link`. Sequences wait for that, if somebody sees to it."""
        if self.broken is not None:
            return
        if self._on_interrupted is None:
            self.fail(error)
            return
        self.broken, self._doubt = error, None
        for sequence in list(self.under_way.values()):
            if sequence.gets_on():
                sequence.sink.interrupted(error)
            else:
                self.under_way.drop(sequence)
                sequence.sink.failed(error)
        if self.under_way:
            self._on_interrupted(self)

    def doubt(self, error: NodeError) -> None:
        """A stage may be lost. The ring itself is asked first: as long as steps come round it is not."""
        now = asyncio.get_running_loop().time()
        if not self.under_way or now - self._heard > DOUBT_SECONDS:
            self.interrupt(error)
        elif self.broken is None:
            self._doubt = self._doubt or (now, error)

    def fail(self, error: ShardboardError) -> None:
        """Every sequence is over because of this; nothing starts before the next `link`."""
        self.broken, self._doubt = self.broken or NodeError(error.message, error.advice, kind="lost"), None
        for sequence in self.release():
            sequence.sink.failed(error)

    def watch(self) -> None:
        """Called each second: mend what has lost messages for good, rather than wait for ever."""
        now = asyncio.get_running_loop().time()
        if self._doubt is not None and self.under_way and now - max(self._doubt[0], self._heard) > DOUBT_SECONDS:
            self.interrupt(self._doubt[1])
        waited = now - self._heard
        if self.broken is not None or not self.under_way or waited < ASK_SECONDS:
            return
        if not all(self._is_idle(stage.node_id) for stage in self.stages):
            return
        if waited < STALL_SECONDS:
            self.catch_up()
            return
        names = " and ".join(dict.fromkeys(stage.node_name for stage in self.stages))
        self.interrupt(
            NodeError(
                f"Nothing has come from {names} for {waited:.0f} s, and they are idle: they cannot reach each other.",
                "Check that each node's address can be reached from the node before it, and deploy again.",
                kind="lost",
                node=self.stages[0].node_name,
            )
        )

    def close(self) -> None:
        """Stop listening; sequences under way are failed."""
        self.closed = True
        if self._missed is not None:
            self._missed.cancel()
        self.fail(NodeError("The deployment was removed.", kind="lost"))
        for stop in self._stop_listening:
            stop()
        self._stop_listening = []

    # --- what comes round --------------------------------------------------------------------------------

    def _on_ring(self, message: RingMessage) -> None:
        if message.deployment != self.deployment or message.epoch != self.epoch or self.broken is not None:
            return
        if isinstance(message, StageFault):
            self._fault(message)
            return
        self._heard = asyncio.get_running_loop().time()
        self._cut.came_round()
        self._tokens(message)

    def _tokens(self, message: Tokens) -> None:
        complete = True
        for scored in message.scored:
            if (sequence := self.under_way.get(scored.sequence)) is not None:
                complete &= sequence.scored(scored)
        for number, count in message.cached:
            if (sequence := self.under_way.get(number)) is not None:
                sequence.cached(count)
        for number, done in message.prefilled:
            if (sequence := self.under_way.get(number)) is not None:
                sequence.prefilled(done, message.times)
        for token in message.tokens:
            complete &= self._sampled(token, message.times, len(message.tokens))
        self._on_step(StepPassed(self.deployment, len(message.tokens), len(message.prefilled), message.times))
        if not complete:
            self.catch_up()

    def _sampled(self, token: Token, times: Many[StageTime], batch: int) -> bool:
        sequence = self.under_way.get(token.sequence)
        if sequence is None:
            return True
        if not sequence.sampled(token, times, batch):
            return False
        if sequence.is_over:
            self.under_way.drop(sequence)
        return True

    def catch_up(self) -> None:
        """Ask the first stage for what may have been lost on its way here."""
        if self.broken is None and self.under_way and (self._missed is None or self._missed.done()):
            self._missed = asyncio.get_running_loop().create_task(self._catch_up())

    async def _catch_up(self) -> None:
        # Not of one that is still on its way there: the agent would not know it.
        epoch, wanted = self.epoch, [each.wanted for each in self.under_way.values() if each.times_started]
        while wanted and self.epoch == epoch and self.broken is None:
            asked, wanted = wanted[:MAX_CAUGHT_UP], wanted[MAX_CAUGHT_UP:]
            message = CatchUp(call=0, deployment=self.deployment, epoch=epoch, sequences=tuple(asked))
            try:
                answer = await self.stages[0].link.call(message)
            except NodeError as error:
                log.info("%s could not tell what was missed: %s", self.stages[0].node_name, error)
                if error.kind == "unknown_stage" and self.epoch == epoch:
                    self.interrupt(error)
                return
            for produced in answer.sequences:
                if await self._take(produced):
                    wanted.append(self.under_way[produced.sequence].wanted)

    async def _take(self, produced: Produced) -> bool:
        """Hand on what was missed of one sequence. Whether there may be more of it."""
        sequence = self.under_way.get(produced.sequence)
        if sequence is None or self.broken is not None:
            return False
        if not produced.known:  # cancelled for its controller's silence, or its Start never came
            try:
                await self._hand_over(sequence)
            except ShardboardError as error:
                if self._breaks(error) and isinstance(error, NodeError):
                    self.interrupt(error)
                else:
                    self.under_way.drop(sequence)
                    sequence.sink.failed(error)
            return False
        for scored in produced.scored:
            sequence.scored(scored)
        if produced.cached and len(sequence.tokens) == sequence.prompt_tokens:
            sequence.cached(produced.cached)
        before = sequence.wanted
        for token in produced.tokens:
            self._sampled(token, (), 1)
        return sequence.wanted != before and not sequence.is_over

    def _fault(self, fault: StageFault) -> None:
        stage = self.stages[fault.stage] if fault.stage < len(self.stages) else self.stages[0]
        error = stage_error(fault, stage, self.dtype)
        if fault.goes_on:
            for number in fault.sequences:
                if (sequence := self.under_way.pop(number, None)) is not None:
                    sequence.sink.failed(error)
        elif fault.kind in BETWEEN_AGENTS:
            self._doubt = self._doubt or (self._heard, error)
            self._cut.said(stage, self.stages[(stage.stage + 1) % len(self.stages)])
        else:
            self.interrupt(error)
