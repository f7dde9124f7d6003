"""Cuts a deployment anew while it answers.

States cannot go along: what one stage kept is another stage's now. So the new cut is loaded beside the old one, reads
what each sequence has so far as if it were a prompt, while the old one goes on with it, and then takes all of them
over: what it has read is in its memory, and the little that came since is read in a moment.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.children.work import NodeProgress
from app.errors import Cancelled, NodeError, PlacementError, ShardboardError
from app.figures import size_text
from app.inference.deployer import Deployed, OnProgress
from app.inference.pipeline import Pipeline
from app.inference.sequence import HANDOVER
from app.inference.sequence import Sequence as Answer
from app.inference.stages import PipelineStage
from app.models.description import ModelDescription
from app.registry import DeploymentRecord, ShardRecord
from app.sharding.capacity import NodeCapacity
from app.sharding.placement import Placement, place_ranges
from app.sharding.plan import parse_layers, ranges_text
from worker_agent.wire.messages import Budget, Sampling, Scored, StageTime, Token

log = logging.getLogger(__name__)

ROUNDS = 3
"""So often what has come since is read ahead, at most."""
LITTLE_TOKENS = 16
"""So few tokens of a sequence are read when it is taken over."""
LOOK_SECONDS = 0.002
FIRST_SECONDS = 20.0
"""How long the first step after the change is awaited, to tell how long answers paused."""


class Deploy(Protocol):
    """`Deployments.deploy`."""

    async def __call__(
        self, description: ModelDescription, placement: Placement, on_progress: OnProgress, cancel: asyncio.Event
    ) -> Deployed: ...


@dataclass(frozen=True)
class CutAnew:
    """A deployment in another cut, which has what the one before had under way."""

    deployed: Deployed
    what: str
    """SmolLM2 is cut into layers 0–9 and 10–29, on rack-1 and laptop."""
    answers: int
    pause_seconds: float
    """Between the last step before and the first one after; 0 where nothing was under way."""


class Recutting:
    """Belongs to the controller's loop.

    Args:
        capacities: what nodes have free now, and how fast they are in a dtype.
        deploy: carries out a placement.
        undeploy: takes a deployment down that another one has replaced.
        heir_of: the group that takes a deployment's place.
    """

    def __init__(
        self,
        capacities: Callable[[Sequence[int], str], Awaitable[list[NodeCapacity]]],
        deploy: Deploy,
        undeploy: Callable[[DeploymentRecord], Awaitable[object]],
        heir_of: Callable[[DeploymentRecord], str],
    ) -> None:
        self._capacities, self._deploy, self._undeploy, self._heir_of = capacities, deploy, undeploy, heir_of

    async def plan(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        shards: Sequence[ShardRecord],
        node_ids: Sequence[int],
        layers: str,
    ) -> Placement:
        """A deployment in another cut, beside what is loaded now. Raises BadInput, PlacementError, NodeError."""
        ranges = parse_layers(layers, description)
        found = {node.node_id: node for node in await self._capacities(list(dict.fromkeys(node_ids)), record.dtype)}
        placement = place_ranges(description, [found[node] for node in node_ids], ranges, record.serving)
        _check_room(placement, shards, found.values())
        return dataclasses.replace(placement, moves=record.id)

    async def carry_out(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        shards: Sequence[ShardRecord],
        pipeline: Pipeline,
        placement: Placement,
        on_progress: OnProgress,
        cancel: asyncio.Event,
    ) -> CutAnew:
        """Load the new cut and have it take over what the old one is at.

        Args:
            shards: the old one's.

        Raises:
            PlacementError: there is no room for both.
            NodeError: a node failed; Cancelled. The old one goes on as before, and the new one is gone.
        """
        nodes = list(dict.fromkeys(stage.node.node_id for stage in placement.stages))
        _check_room(placement, shards, await self._capacities(nodes, record.dtype))
        fresh = dataclasses.replace(placement, moves="", replica_of=self._heir_of(record))
        deployed = await self._deploy(description, fresh, on_progress, cancel)
        successor = deployed.pipeline
        try:
            await self._read_ahead(pipeline, successor, record.serving.longest, on_progress, cancel)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._taken_back(record, pipeline, deployed)))
            raise
        cut, names = ranges_text(placement.ranges), " and ".join(each.node.name for each in placement.stages)
        waiting, before = pipeline.active, pipeline.heard
        first = asyncio.ensure_future(_first_step(successor, asyncio.get_running_loop().time()))
        await _changed(
            pipeline, successor, f"{record.model_name} is cut anew.", f"cut anew into layers {cut}, on {names}"
        )
        pause = max(0.0, await first - before) if waiting else 0.0
        first.cancel()
        await self._undeploy(record)
        return CutAnew(deployed, f"{record.model_name} is cut into layers {cut}, on {names}", waiting, pause)

    async def _taken_back(self, record: DeploymentRecord, old: Pipeline, deployed: Deployed) -> None:
        """It failed: what has come to the new cut meanwhile goes on in the old one."""
        why = f"{record.model_name} could not be cut anew."
        await _changed(deployed.pipeline, old, why, "the cut of before goes on")
        await self._undeploy(deployed.record)

    async def _read_ahead(
        self, old: Pipeline, new: Pipeline, longest: int, on_progress: OnProgress, cancel: asyncio.Event
    ) -> None:
        """Have the new pipeline read what the old one's sequences have. Raises NodeError, Cancelled."""
        if any(each.reuse == "no" for each in new.stages):
            return  # what was read would not be taken over
        read: dict[int, int] = {}
        stage = new.stages[0]
        for _ in range(ROUNDS):
            behind = [
                sequence
                for sequence in old.under_way.values()
                if len(sequence.tokens) - read.get(sequence.number, 0) > LITTLE_TOKENS
                and len(sequence.tokens) < longest
            ]
            if not behind:
                return
            for done, sequence in enumerate(behind):
                if cancel.is_set():
                    raise Cancelled("The change of the cut was cancelled.")
                at = stage.node_id, stage.node_name
                on_progress(NodeProgress("copying", *at, done, len(behind), unit="answers"))
                read[sequence.number] = len(sequence.tokens)
                await _read(new, sequence)


async def _changed(before: Pipeline, after: Pipeline, why: str, what: str) -> None:
    """Have one pipeline go on with what another one is at, and with whatever still comes there."""
    before.pause(NodeError(why, kind=HANDOVER))
    before.successor = after
    await after.start_adopted(after.adopt(before.release()), what)


async def _read(pipeline: Pipeline, sequence: Answer) -> None:
    """Have a pipeline read a sequence's tokens, so that they are in its memory. Raises NodeError."""
    reader = _Reader()
    tokens = list(sequence.tokens)
    shadow = Answer(tokens, len(tokens), Sampling(), Budget(max_tokens=1), reader, sequence.group)
    await pipeline.start(shadow)
    try:
        await reader.done
    finally:
        await asyncio.shield(asyncio.ensure_future(shadow.cancel()))


class _Reader:
    """Waits until a sequence has been read, and wants nothing else of it."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def sampled(self, token: Token, times: Sequence[StageTime], batch: int) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def failed(self, error: ShardboardError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def interrupted(self, error: NodeError) -> None:
        self.failed(error)

    def handed_over(self, deployment: str, number: int, epoch: int) -> None: ...

    def cached(self, tokens: int) -> None: ...

    def prefilled(self, done: int, times: Sequence[StageTime]) -> None: ...

    def prompt_scored(self, scored: Scored) -> None: ...

    def resumed(self, what: str, exact: bool, stages: Sequence[PipelineStage]) -> None: ...


async def _first_step(pipeline: Pipeline, since: float) -> float:
    """When something came round first, by the loop's clock."""
    loop = asyncio.get_running_loop()
    while pipeline.heard <= since and loop.time() < since + FIRST_SECONDS:
        await asyncio.sleep(LOOK_SECONDS)
    return pipeline.heard


def _check_room(placement: Placement, shards: Sequence[ShardRecord], nodes: Iterable[NodeCapacity]) -> None:
    """Raises PlacementError where a node has no room for the new cut beside what it holds now."""
    there = {(shard.node_id, shard.start_layer, shard.end_layer) for shard in shards}
    for node in nodes:
        mine = [stage for stage in placement.stages if stage.node.node_id == node.node_id]
        # Weights of a stage that stays as it is are kept once.
        kept = sum(stage.weight_bytes for stage in mine if (node.node_id, stage.start, stage.end) in there)
        if (needed := sum(stage.memory for stage in mine) - kept) > node.free_memory:
            raise PlacementError(
                f"{node.name} has {size_text(node.free_memory)} free, the new cut takes {size_text(needed)} there "
                "beside the old one, which answers until it is loaded: "
                f"{size_text(needed - node.free_memory)} are missing.",
                "Free memory there, or have the model taken down and deployed anew (without --live).",
            )
