"""A deployment that is linked: its stages in order, its epoch, and the sequences that run through it.

Starts and cancels sequences on the first stage and hands what comes out of the last one to whoever waits
for it. When a stage is lost every sequence is told at once; nothing is left waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from app.cluster.agent_link import AgentLink, RingMessage
from app.errors import NodeError, RequestError
from app.inference.events import StepPassed
from worker_agent.wire.messages import (
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_FRAMES,
    Budget,
    Cancel,
    Constrain,
    Constraint,
    DType,
    Link,
    Reuse,
    Sampling,
    Scored,
    StageFault,
    StageTime,
    Start,
    TensorFrame,
    Token,
    Tokens,
    Way,
)

log = logging.getLogger(__name__)

LINK_SECONDS = 20.0
GRAMMAR_SECONDS = 60.0
TOKENIZER_SECONDS = 300.0
"""For the tokenizer to arrive, over a slow network, and to be read there."""
DOUBT_SECONDS = 8.0
"""How long a connection between two agents may be broken while nothing comes round. Time enough to connect anew,
and for the health watch to find out that it is the node that is gone, which is the better thing to say."""
STALL_SECONDS = 20.0
"""Sequences that wait while every stage is idle for so long have lost a message for good."""


@dataclass(frozen=True)
class PipelineStage:
    """Stage k of a pipeline and the node that holds it."""

    stage: int
    node_id: int
    node_name: str
    address: str
    public_key: str
    start: int
    end: int
    link: AgentLink
    ways: tuple[Way, ...] = ()
    """How its agent says that it runs."""
    reuse: Reuse = "no"
    """What a prompt may take over there from an earlier one."""

    @property
    def takes_pieces(self) -> bool:
        """Whether a prompt may come in several steps."""
        return not any(way.name == "pieces" and way.used < way.possible for way in self.ways)


class Sink(Protocol):
    """Who waits for a sequence. Called on the controller's loop; must not block."""

    def handed_over(self) -> None:
        """The sequence is on its way to the first stage. What it brings may come before the answer to that."""

    def sampled(self, token: Token, times: Sequence[StageTime], batch: int) -> None:
        """A token came, by a step that took so long on each stage and brought `batch` tokens in all."""

    def cached(self, tokens: int) -> None:
        """So many of its first tokens did not have to be computed: an earlier prompt began in the same way."""

    def prefilled(self, done: int, times: Sequence[StageTime]) -> None:
        """So many of the prompt's tokens are in the caches now."""

    def prompt_scored(self, scored: Scored) -> None:
        """Log probabilities of some of the prompt's tokens, before the first token is sampled."""

    def failed(self, error: NodeError) -> None: ...


class Pipeline:
    """Stages linked in a ring, and who waits for what comes out of it. Belongs to the controller's loop.

    Args:
        deployment: its id.
        stages: in order.
        is_idle: whether a node's compute thread is known to be idle, for the stall rule.
        on_step: told of every step that has come round.
        dtype: what the stages compute in; errors name it.
    """

    def __init__(
        self,
        deployment: str,
        stages: Sequence[PipelineStage],
        is_idle: Callable[[int], bool],
        on_step: Callable[[StepPassed], None] = lambda step: None,
        dtype: str = "",
    ) -> None:
        self.deployment, self.stages, self._is_idle, self._dtype = deployment, tuple(stages), is_idle, dtype
        self._on_step = on_step
        self.epoch = 0
        self.broken: NodeError | None = None
        """Why nothing runs until the next `link`."""
        self._sinks: dict[int, Sink] = {}
        self._numbers = itertools.count(1)
        self._heard = 0.0
        self._doubt: tuple[float, NodeError] | None = None
        self._sending_tokenizer = asyncio.Lock()
        self._stop_listening = [link.on_ring(self._on_ring) for link in {id(s.link): s.link for s in stages}.values()]

    @property
    def active(self) -> int:
        """Sequences under way."""
        return len(self._sinks)

    def holds_node(self, node_id: int) -> bool:
        return any(stage.node_id == node_id for stage in self.stages)

    async def link(self, epoch: int) -> None:
        """Connect the stages in a ring under a new epoch; what ran before is over.

        Last stage first: when the first one begins to send, all others are ready. Raises NodeError.
        """
        self.fail(NodeError("The deployment was connected anew.", "Send the request again.", kind="lost"))
        last = len(self.stages) - 1
        for stage in reversed(self.stages):
            following = self.stages[stage.stage + 1] if stage.stage < last else None
            first = self.stages[0] if stage.stage == last and last > 0 else None
            message = Link(call=0, deployment=self.deployment, stage=stage.stage, epoch=epoch)
            if stage.stage == 0:
                message = replace(
                    message,
                    whole_prompts=not all(each.takes_pieces for each in self.stages),
                    reuse=min((each.reuse for each in self.stages), key=("no", "whole", "any").index),
                )
            if following is not None and following.node_id != stage.node_id:
                message = replace(message, downstream=following.address, downstream_key=following.public_key)
            if first is not None and first.node_id != stage.node_id:
                message = replace(message, first=first.address, first_key=first.public_key)
            await stage.link.call(message, seconds=LINK_SECONDS)
        self.epoch, self.broken = epoch, None

    async def start(
        self,
        tokens: Sequence[int],
        prompt_tokens: int,
        sampling: Sampling,
        budget: Budget,
        sink: Sink,
        constraint: Constraint | None = None,
        tokenizer: Callable[[], bytes] | None = None,
        group: str = "",
    ) -> int:
        """Start a sequence; its number.

        Args:
            group: only prompts of one group may begin with each other's tokens.
            constraint: the grammar that the sampling names.
            tokenizer: gives the model's tokenizer.json when the last stage needs it to follow a grammar.

        Raises:
            NodeError; RequestError: the constraint cannot be followed.
        """
        if self.broken is not None:
            raise self.broken
        if constraint is not None:
            await self._constrain(constraint, budget.eos, tokenizer)
            if self.broken is not None:
                raise self.broken
        number, epoch = next(self._numbers), self.epoch
        row = struct.pack(f"<{len(tokens)}i", *tokens)
        message = Start(
            call=0,
            deployment=self.deployment,
            epoch=epoch,
            sequence=number,
            prompt_tokens=prompt_tokens,
            sampling=sampling,
            budget=budget,
            tokens=TensorFrame(DType.INT32, (len(tokens),)),
            group=group,
        )
        if not self._sinks:
            self._heard = asyncio.get_running_loop().time()
        self._sinks[number] = sink
        sink.handed_over()
        try:
            await self.stages[0].link.call(message, (row,))
        except asyncio.CancelledError:
            await asyncio.shield(self.cancel(number))  # the agent may have it already, and would compute for nobody
            raise
        except BaseException:
            self._sinks.pop(number, None)
            raise
        return number

    async def _constrain(
        self, constraint: Constraint, eos: tuple[int, ...], tokenizer: Callable[[], bytes] | None
    ) -> None:
        """Make a grammar ready where tokens are chosen; the tokenizer is sent along only when it is not there yet."""
        link = self.stages[-1].link
        message = Constrain(call=0, deployment=self.deployment, constraint=constraint, eos=eos)
        try:
            if await self._is_ready(message, wanted=tokenizer is None):
                return
            assert tokenizer is not None
            async with self._sending_tokenizer:  # of requests that come at once, one sends it
                if await self._is_ready(message):
                    return
                data = await asyncio.to_thread(tokenizer)
                pieces = tuple(data[at : at + MAX_FRAME_BYTES] for at in range(0, len(data), MAX_FRAME_BYTES))
                if len(pieces) > MAX_PAYLOAD_FRAMES:
                    raise NodeError(f"the tokenizer is too large, {len(data)} bytes.", kind="no_tokenizer")
                await link.call(message, pieces, seconds=TOKENIZER_SECONDS)
        except NodeError as error:
            if error.kind not in ("constraint", "no_tokenizer"):
                raise
            raise RequestError(
                f"The answer cannot be held to the wanted form: {error.message}", "Send the request without it."
            ) from error

    async def _is_ready(self, message: Constrain, *, wanted: bool = False) -> bool:
        """Whether the last stage has made the grammar ready; not, if it lacks the tokenizer: an error if `wanted`."""
        try:
            await self.stages[-1].link.call(message, seconds=GRAMMAR_SECONDS)
        except NodeError as error:
            if error.kind != "no_tokenizer" or wanted:
                raise
            return False
        return True

    async def cancel(self, number: int) -> None:
        """End a sequence and free its KV. An agent that cannot be reached is no error: it frees it by itself."""
        self._sinks.pop(number, None)
        if self.broken is not None:
            return
        try:
            await self.stages[0].link.call(
                Cancel(call=0, deployment=self.deployment, epoch=self.epoch, sequence=number), seconds=5.0
            )
        except NodeError as error:
            log.info("a cancel did not reach %s: %s", self.stages[0].node_name, error)

    def fail(self, error: NodeError) -> None:
        """Every sequence is over because of this; nothing starts before the next `link`."""
        self.broken, self._doubt = error, None
        sinks, self._sinks = list(self._sinks.values()), {}
        for sink in sinks:
            sink.failed(error)

    def watch(self) -> None:
        """Called each second: fail sequences whose messages were lost for good, rather than wait for ever."""
        now = asyncio.get_running_loop().time()
        if self._doubt is not None and self._sinks and now - self._doubt[0] > DOUBT_SECONDS:
            self.fail(self._doubt[1])
        waited = now - self._heard
        if not self._sinks or waited < STALL_SECONDS or not all(self._is_idle(stage.node_id) for stage in self.stages):
            return
        names = " and ".join(dict.fromkeys(stage.node_name for stage in self.stages))
        self.fail(
            NodeError(
                f"Nothing has come from {names} for {waited:.0f} s, and they are idle: they cannot reach each other.",
                "Check that each node's address can be reached from the node before it, and deploy again.",
                kind="lost",
                node=self.stages[0].node_name,
            )
        )

    def close(self) -> None:
        """Stop listening; sequences under way are failed."""
        self.fail(NodeError("The deployment was removed.", kind="lost"))
        for stop in self._stop_listening:
            stop()
        self._stop_listening = []

    def _on_ring(self, message: RingMessage) -> None:
        if message.deployment != self.deployment or message.epoch != self.epoch:
            return
        self._heard = asyncio.get_running_loop().time()
        if isinstance(message, StageFault):
            self._fault(message)
        else:
            self._doubt = None
            self._tokens(message)

    def _tokens(self, message: Tokens) -> None:
        for scored in message.scored:
            if (sink := self._sinks.get(scored.sequence)) is not None:
                sink.prompt_scored(scored)
        for number, count in message.cached:
            if (sink := self._sinks.get(number)) is not None:
                sink.cached(count)
        for number, done in message.prefilled:
            if (sink := self._sinks.get(number)) is not None:
                sink.prefilled(done, message.times)
        for token in message.tokens:
            # After "numbers" the stage that they came from may still have its word, over a connection of its own.
            ends = token.finish and token.finish != "numbers"
            sink = self._sinks.pop(token.sequence, None) if ends else self._sinks.get(token.sequence)
            if sink is not None:
                sink.sampled(token, message.times, len(message.tokens))
        self._on_step(StepPassed(self.deployment, len(message.tokens), len(message.prefilled), message.times))

    def _fault(self, fault: StageFault) -> None:
        stage = self.stages[fault.stage] if fault.stage < len(self.stages) else self.stages[0]
        error = NodeError(
            f"{stage.node_name} (layers {stage.start}-{stage.end - 1}) failed: {fault.message.rstrip('.')}.",
            _advice(fault.kind, self._dtype),
            kind=fault.kind,
            node=stage.node_name,
        )
        if fault.goes_on:
            for number in fault.sequences:
                if (sink := self._sinks.pop(number, None)) is not None:
                    sink.failed(error)
        elif fault.kind == "link_lost":
            self._doubt = self._doubt or (self._heard, error)
        else:
            self.fail(error)


def _advice(kind: str, dtype: str) -> str:
    """What to do about a stage's fault, besides what the stage itself says."""
    if kind != "numbers":
        return "The agent's log has the details. The next request starts the deployment anew."
    if dtype == "float32":
        return "Other requests go on."
    wider = "bfloat16 or float32" if dtype == "float16" else "float32"
    return f"Other requests go on. For {wider} undeploy the model, then deploy it again with --dtype."
