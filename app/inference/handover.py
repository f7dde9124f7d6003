"""Hands stages of a deployment over to other nodes while it answers.

The layers are loaded where they are to be, and what sequences keep there is copied, while the old stage still works:
its states only grow at their end. Then the first stage begins no step any more, what is under way comes round, what
came since is copied, the ring is linked anew with all states in place, and every sequence goes on: to the bit, where
both nodes compute alike.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from app.children.work import NodeProgress
from app.cluster.nodes import NodeDirectory
from app.errors import BadInput, NodeError, PlacementError, ShardboardError
from app.figures import duration, layers, size_text
from app.inference.deployer import Deployer, OnProgress, Seat, check_addresses, seats_of
from app.inference.deployment_notes import note
from app.inference.mender import Mender
from app.inference.mender import answers as told_answers
from app.inference.pipeline import Pipeline
from app.inference.placing import Placing
from app.inference.recovery import Mended, note_moved, numerics
from app.inference.recutting import Recutting
from app.inference.sequence import HANDOVER
from app.inference.stage_copy import StageCopy
from app.models.description import ModelDescription
from app.models.library import ModelLibrary
from app.registry import DeploymentRecord, EventLevel, NodeRecord, Registry, ShardRecord
from app.sharding.capacity import NodeCapacity
from app.sharding.placement import Placement, place_ranges
from app.sharding.plan import parse_layers, ranges_text
from app.sharding.relocation import LostStage
from app.sharding.stage_sizes import StageSizes
from worker_agent.wire.messages import (
    Halt,
    Loaded,
    Part,
)

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
LAST_SECONDS = 20.0
"""For all that is to be copied while the stages stand still."""
AGAIN_SECONDS = 3.0
REST_SECONDS = 3.0
"""How long steps that are under way may take to come round; what has not is computed again."""
LOOK_SECONDS = 0.002
FIRST_SECONDS = 20.0
"""How long the first step after a handover is awaited, to tell how long answers paused."""


@dataclass(frozen=True)
class HandedOver:
    """Stages that are elsewhere now."""

    record: DeploymentRecord
    what: str
    """Layers 2–3 went from rack-1 to laptop."""
    answers: int
    """How many were under way."""
    pause_seconds: float
    """Between the last step before and the first one after; 0 where nothing was under way."""
    copied_bytes: int

    @property
    def sentence(self) -> str:
        if not self.answers:
            return f"{self.what}."
        return f"{self.what}; {told_answers(self.answers)} paused for {duration(self.pause_seconds)}."


@dataclass(frozen=True)
class _Move:
    """All that is known of a handover before it begins."""

    record: DeploymentRecord
    description: ModelDescription
    pipeline: Pipeline
    placement: Placement
    shards: Sequence[ShardRecord]
    old: Sequence[Seat]
    new: Sequence[Seat]
    moved: Sequence[int]

    @property
    def what(self) -> str:
        parts = (
            f"{layers(*self.placement.ranges[stage])} went from {self.old[stage].node.hostname} to "
            f"{self.new[stage].node.hostname}"
            for stage in self.moved
        )
        return ", ".join(parts)


class Handover:
    """Hands stages over. Belongs to the controller's loop.

    Args:
        placing: tells what nodes have free now, and where lost stages are best.
        recutting: sees to what is to be cut otherwise.
    """

    def __init__(
        self,
        registry: Registry,
        nodes: NodeDirectory,
        library: ModelLibrary,
        deployer: Deployer,
        mender: Mender,
        placing: Placing,
        recutting: Recutting,
    ) -> None:
        self._registry, self._nodes, self._library = registry, nodes, library
        self._recutting = recutting
        self._deployer, self._mender, self._placing = deployer, mender, placing

    # --- where to ----------------------------------------------------------------------------------------

    async def plan(
        self, record: DeploymentRecord, description: ModelDescription, node_ids: Sequence[int] | None, ranges: str = ""
    ) -> Placement:
        """The stages of a deployment on these nodes, in order.

        Args:
            node_ids: None for those that have them, in a new cut.
            ranges: as the user wrote them; empty for those that are.

        Raises BadInput, PlacementError, NodeError.
        """
        shards = await self._shards(record)
        cut = ranges_text([_range(shard) for shard in shards])
        anew = bool(ranges) and parse_layers(ranges, description) != tuple(_range(shard) for shard in shards)
        if node_ids is None and not anew:
            raise BadInput("It is not said where the stages are to go.", "Name a node for each stage: --nodes 1,3")
        if anew:
            nodes = [shard.node_id or 0 for shard in shards] if node_ids is None else node_ids
            return await self._recutting.plan(record, description, shards, nodes, ranges)
        assert node_ids is not None
        if len(node_ids) != len(shards):
            raise PlacementError(
                f"{len(node_ids)} nodes are named for the {len(shards)} stages of {record.model_name} ({cut}).",
                "Name one for each stage, in order; those that stay as they are, too.",
            )
        found = await self._placing.capacities(list(dict.fromkeys(node_ids)), record.serving.dtype)
        by_id = {node.node_id: node for node in found}
        sizes = StageSizes(description, record.serving)
        _check_room(shards, node_ids, found, sizes)
        where = [
            # What stays has its memory already.
            dataclasses.replace(by_id[target], free_memory=by_id[target].free_memory + sizes.memory(*_range(shard)))
            if target == shard.node_id
            else by_id[target]
            for shard, target in zip(shards, node_ids, strict=True)
        ]
        placement = place_ranges(description, where, [_range(shard) for shard in shards], record.serving)
        return dataclasses.replace(placement, moves=record.id)

    async def away(self, record: DeploymentRecord, description: ModelDescription, node: NodeRecord) -> Placement:
        """Where the stages that a node has may go. Raises PlacementError when there is no room."""
        shards, sizes = await self._shards(record), StageSizes(description, record.serving)
        leaving = [
            LostStage(shard.shard_id, sizes.memory(*_range(shard)), node.id)
            for shard in shards
            if shard.node_id == node.id
        ]
        every = await self._registry.call(lambda known: known.nodes.list())
        others = [
            each.id
            for each in every
            if each.id != node.id
            and not each.draining
            and not self._nodes.health.yields(each.id)
            and each.is_loopback == node.is_loopback
            and self._nodes.link(each.id).is_up
        ]
        capacities = await self._placing.capacities(others, record.serving.dtype) if others else []
        there = {shard.shard_id: shard.node_id or 0 for shard in shards if shard.node_id != node.id}
        ranges = [_range(shard) for shard in shards]
        chosen = await self._placing.relocated(description, record.serving, ranges, there, leaving, capacities)
        if chosen is None:
            needs = ", ".join(f"{layers(*_range(shards[each.stage]))} ({size_text(each.memory)})" for each in leaving)
            raise PlacementError(
                f"No other node has room for what {node.hostname} holds of {record.model_name}: {needs}.",
                "Add a node, or free memory on another one.",
            )
        targets = [chosen.get(shard.shard_id, shard.node_id or 0) for shard in shards]
        return await self.plan(record, description, targets)

    # --- how ---------------------------------------------------------------------------------------------

    async def carry_out(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        pipeline: Pipeline,
        placement: Placement,
        on_progress: OnProgress,
        cancel: asyncio.Event,
    ) -> HandedOver:
        """Move the stages that a placement has elsewhere.

        Raises:
            NodeError: a node was lost or refuses. What answers were under way go on, where it is as before, or as it is
                mended.
            PlacementError: nothing would move. Cancelled.
        """
        shards = await self._shards(record)
        if placement.ranges != tuple(_range(shard) for shard in shards):
            cut = await self._recutting.carry_out(record, description, shards, pipeline, placement, on_progress, cancel)
            handed = HandedOver(cut.deployed.record, cut.what, cut.answers, cut.pause_seconds, 0)
            await self._tell(f"{record.model_name}: {handed.sentence}", cut.deployed.record)
            return handed
        old = await seats_of(self._registry, self._nodes, [shard.node_id for shard in shards])
        new = await seats_of(self._registry, self._nodes, [each.node.node_id for each in placement.stages])
        moved = [stage for stage, (a, b) in enumerate(zip(old, new, strict=True)) if a.node.id != b.node.id]
        if not moved:
            raise PlacementError(f"{record.model_name} is there already.", "Name other nodes.")
        if self._mender.is_mending(record.id):
            raise NodeError(f"{record.model_name} is being mended at this moment.", "Try again when it answers.")
        move = _Move(record, description, pipeline, placement, shards, old, new, moved)
        for stage in moved:
            await new[stage].link.connect(CONNECT_SECONDS)
        check_addresses(new)
        targets = [seat.node.id for seat in new]
        capacities = await self._placing.capacities(list(dict.fromkeys(targets)), record.serving.dtype)
        _check_room(shards, targets, capacities, StageSizes(description, record.serving))
        digests = await asyncio.to_thread(self._library.digests, description)
        await self._deployer.bring(record, description, digests, placement, new, moved, on_progress, cancel)
        try:
            parts = await asyncio.to_thread(digests.parts)
            copies = [
                StageCopy(pipeline, stage, old[stage].link, new[stage].link, journal=record.recovery == "exact")
                for stage in moved
            ]
            for copy, stage in zip(copies, moved, strict=True):
                await copy.ahead(_told(on_progress, new[stage]), cancel)
            waiting, before = pipeline.active, [0.0, 0.0]
            await self._mender.hand_over(record.id, self._switched(move, parts, copies, before))
        except BaseException:
            await asyncio.shield(self._cleared(move))
            raise
        pause = await _first_step(pipeline, before) if waiting else 0.0
        copied = sum(copy.nbytes for copy in copies)
        handed = HandedOver(record, move.what, waiting, pause, copied)
        log.info("%s: %s (%s copied)", record.model_name, handed.sentence, size_text(copied))
        await self._tell(f"{record.model_name}: {handed.sentence}", record)
        return handed

    async def _switched(
        self, move: _Move, parts: Sequence[Part], copies: Sequence[StageCopy], before: list[float]
    ) -> Mended:
        """From the old stages to the new ones, as quickly as can be."""
        record, pipeline, moved = move.record, move.pipeline, move.moved
        await rested(pipeline, REST_SECONDS)
        before[0] = pipeline.heard
        where = " and ".join(layers(*move.placement.ranges[stage]) for stage in moved)
        pipeline.pause(NodeError(f"{where[:1].upper()}{where[1:]} of {record.model_name} move.", kind=HANDOVER))
        found = await pipeline.halted(keeps=0 not in moved)
        try:
            loaded = await self._brought(move, parts, copies)
        except BaseException:
            # The neighbours may let the new ones in already, and the old ones no more.
            await asyncio.shield(self._announced_again(move, parts))
            raise
        resumed = tuple(
            each if all(copy.covers(each) for copy in copies) else replace(each, length=0, kind="runs")
            for each in found
            if each.kind != "kept" or all(copy.covers(each) for copy in copies)
        )
        await self._registry.call(lambda known: note_moved(known, move.shards, move.new))
        pipeline.restage(self._deployer.stages(move.new, move.placement.ranges, loaded))
        await pipeline.link(await self._registry.call(lambda known: known.deployments.next_epoch(record.id)), resumed)
        before[1] = pipeline.heard
        left = tuple((move.old[stage].node.id, stage) for stage in moved)
        alike = all(
            numerics(self._nodes, move.old[stage].node.id) == numerics(self._nodes, move.new[stage].node.id)
            for stage in moved
        )
        return Mended(record, pipeline, move.what, left, alike)

    async def _brought(self, move: _Move, parts: Sequence[Part], copies: Sequence[StageCopy]) -> list[Loaded]:
        """Copy what is left, and tell all stages who their neighbours are. Raises NodeError."""
        announced = asyncio.ensure_future(
            self._deployer.announce(move.record, move.description, parts, move.placement, move.new)
        )
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await asyncio.gather(announced, *(copy.rest() for copy in copies))
        except TimeoutError:
            why = f"what is left could not be copied within {LAST_SECONDS:.0f} s"
            raise NodeError(f"The handover of {move.record.model_name} is given up: {why}.", kind="timeout") from None
        finally:
            announced.cancel()
        return announced.result()

    async def _announced_again(self, move: _Move, parts: Sequence[Part]) -> None:
        """As it was before, as far as the nodes are there; those that are lost are seen to by the recovery."""
        for stage in range(len(move.old)):
            try:
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._deployer.announce(
                        move.record, move.description, parts, move.placement, move.old, [stage]
                    )
            except (ShardboardError, TimeoutError) as error:
                log.info("stage %d is not as before: %s", stage, error)

    async def _cleared(self, move: _Move) -> None:
        """It failed: free each stage where it is not to be, as the registry has it by now."""
        try:
            shards = await self._shards(move.record)
        except ShardboardError as error:
            log.error("what a failed handover left cannot be freed: %s", error)
            return
        for stage in move.moved:
            for seat in (move.old[stage], move.new[stage]):
                if shards[stage].node_id != seat.node.id:
                    await self._deployer.take_away(move.record.id, {stage: seat})

    async def _tell(self, sentence: str, record: DeploymentRecord) -> None:
        try:
            await self._registry.call(lambda known: note(known, EventLevel.INFO, sentence, record))
        except ShardboardError as error:  # it has been done all the same
            log.error("%s (which could not be written down: %s)", sentence, error)

    async def _shards(self, record: DeploymentRecord) -> list[ShardRecord]:
        return await self._registry.call(lambda known: known.shards.list(deployment_id=record.id))


def _check_room(
    shards: Sequence[ShardRecord], targets: Sequence[int], nodes: Sequence[NodeCapacity], sizes: StageSizes
) -> None:
    """Raises PlacementError where a node has no room for what is to move there, besides what it holds."""
    for node in nodes:
        coming = sum(
            sizes.memory(*_range(shard))
            for shard, target in zip(shards, targets, strict=True)
            if target == node.node_id != shard.node_id
        )
        if coming > node.free_memory:
            raise PlacementError(
                f"{node.name} has {size_text(node.free_memory)} free, what is to move there takes {size_text(coming)} "
                f"besides what is there now: {size_text(coming - node.free_memory)} are missing.",
                "Choose another node, free memory there, or have the model taken down and deployed anew.",
            )


async def rested(pipeline: Pipeline, seconds: float) -> None:
    """Have the first stage begin no step any more, and wait so long at most for those that are under way.

    Raises NodeError.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    message = Halt(call=0, deployment=pipeline.deployment, stage=0, epoch=pipeline.epoch, rest=True)
    while (await pipeline.stages[0].link.call(message)).under_way and loop.time() < deadline:
        await asyncio.sleep(LOOK_SECONDS)


async def _first_step(pipeline: Pipeline, before: Sequence[float]) -> float:
    """How long nothing came round: from the last step before to the first one after a handover."""
    last, linked = before
    loop = asyncio.get_running_loop()
    deadline = loop.time() + FIRST_SECONDS
    while pipeline.heard == linked and pipeline.active and loop.time() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
    return pipeline.heard - last


def _told(on_progress: OnProgress, seat: Seat) -> Callable[[int], None]:
    def told(done: int) -> None:
        on_progress(NodeProgress("copying", seat.node.id, seat.node.hostname, done, done))

    return told


def _range(shard: ShardRecord) -> tuple[int, int]:
    return shard.start_layer, shard.end_layer
