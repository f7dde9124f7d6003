"""Mends a pipeline whose stages were lost, so that what runs through it goes on.

Who is there is asked; what nobody holds is loaded again, where it was if that agent is back, else on another node that
has room; the ring is linked anew under a higher epoch, and every sequence goes on from the tokens that it has. Where
nothing can hold the lost layers it waits for their node, for as long as the deployment's setting says. What is lost
meanwhile, or again, is seen to in the same way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from app.cluster.nodes import NodeDirectory
from app.errors import Cancelled, NodeError, PlacementError, RequestError, ShardboardError
from app.figures import layers, size_text
from app.inference.deployer import Deployer, Seat, check_addresses, seats_of
from app.inference.onlookers import Onlookers
from app.inference.pipeline import BREAKING, Pipeline
from app.inference.placing import Placing
from app.models.description import ModelDescription
from app.models.digests import PartDigests
from app.models.library import ModelLibrary
from app.registry import DeploymentRecord, DeploymentStatus, Registry, ShardRecord
from app.sharding.capacity import NodeCapacity
from app.sharding.placement import Placement, place_ranges
from app.sharding.planning.aims import DEFAULT_AIM
from app.sharding.relocation import LostStage
from app.sharding.stage_sizes import StageSizes
from worker_agent.wire.messages import Health, Numerics, Resumed, StageInfo

log = logging.getLogger(__name__)

LOOK_SECONDS = 3.0
"""How long a node may take to say what it holds."""
AGAIN_SECONDS = 0.5
"""Between two looks at nodes that are awaited."""
SHUNNED_SECONDS = 20.0
"""So long no lost layers go to a node where loading or linking them has just failed, if there is another."""


MOST_FAILURES = 10
"""So often loading or linking may fail before answers are given up."""


class Nowhere(NodeError):
    """No node that is there has room for what was lost."""


@dataclass(frozen=True)
class _Stage:
    """A stage as it was found."""

    shard: ShardRecord
    seat: Seat
    info: StageInfo | None
    """As its node holds it; None when it does not."""
    trouble: ShardboardError | None
    """Why its node cannot be asked."""


@dataclass(frozen=True)
class Mended:
    """A pipeline that is linked again."""

    record: DeploymentRecord
    pipeline: Pipeline
    what: str
    """What was done for it, in words: layers 22–31 went to laptop."""
    left: tuple[tuple[int, int], ...] = ()
    """Nodes that had stages which are elsewhere now, and those stages' numbers: they may hold them still."""
    alike: bool = True
    """Whether whoever took a stage over computes as the node that had it: else half precision differs in low bits."""


class Recovery:
    """Mends pipelines. Belongs to the controller's loop.

    Args:
        placing: asks what nodes have free now, and plans over them.
        redeploy: takes the old deployment down and carries out a placement of the same model.
    """

    def __init__(
        self,
        registry: Registry,
        nodes: NodeDirectory,
        library: ModelLibrary,
        deployer: Deployer,
        placing: Placing,
        redeploy: Callable[
            [DeploymentRecord, ModelDescription, Placement, Onlookers], Awaitable[tuple[DeploymentRecord, Pipeline]]
        ],
    ) -> None:
        self._registry, self._nodes, self._library, self._deployer = registry, nodes, library, deployer
        self._placing, self._redeploy = placing, redeploy
        self._changed = asyncio.Event()
        self._shunned: dict[int, float] = {}
        """Nodes, and until when no lost layers go there."""
        self._stuck: dict[int, float] = {}
        """Nodes, and until when what they hold counts as lost."""

    def look_again(self) -> None:
        """A node came back: whoever waits for it need not go on waiting."""
        self._changed.set()

    async def mend(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        pipeline: Pipeline | None,
        onlookers: Onlookers,
    ) -> Mended:
        """Have every stage of a deployment loaded and linked; sequences are not started again yet.

        Args:
            pipeline: the one that broke; None for a deployment that an earlier controller made.
            onlookers: told what is being done; they may cancel it.

        Raises:
            Cancelled: while it loaded, or waited for a node.
            Nowhere: no node has room for its layers, and the time to wait for that is over.
            NodeError: it was tried in vain many times.
            RequestError: a node of it was removed from the registry.
        """
        loop = asyncio.get_running_loop()
        deadline, failures = loop.time() + record.serving.wait_seconds, 0
        last: NodeError | None = None
        while True:
            self._changed.clear()
            try:
                return await self._attempt(record, description, pipeline, onlookers)
            except Cancelled:
                raise _cancelled(record) from None
            except Nowhere as error:
                if loop.time() >= deadline and last is not None:  # there may be room, and something else in the way
                    raise Nowhere(
                        f"{error.message} {last.message}", error.advice, kind=last.kind, node=last.node
                    ) from error
                if loop.time() >= deadline:
                    raise
                onlookers.tell(f"{error.message} Waiting for it, for {deadline - loop.time():.0f} s more")
            except NodeError as error:  # one more was lost: there may be others
                failures, last = failures + 1, error
                log.warning("deployment %s cannot be mended this way: %s", record.id, error)
                if failures >= MOST_FAILURES:
                    raise
                deadline = max(deadline, loop.time() + 1)
            try:
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass
            if onlookers.cancel.is_set():
                raise _cancelled(record)

    async def join(self, record: DeploymentRecord) -> Pipeline | None:
        """A deployment's pipeline as an earlier controller linked it; None where a stage is gone, or was not linked."""
        try:
            stages = await self._look(record)
            told = [stage.info for stage in stages if stage.info is not None]
            if len(told) < len(stages) or len({info.epoch for info in told}) > 1 or not told[0].epoch:
                return None
            ranges = [(stage.shard.start_layer, stage.shard.end_layer) for stage in stages]
            pipeline = self._deployer.pipeline(
                record, self._deployer.stages([stage.seat for stage in stages], ranges, told)
            )
        except ShardboardError as error:
            log.info("deployment %s does not run any more: %s", record.id, error)
            return None
        try:
            await pipeline.join(told[0].epoch)
        except ShardboardError as error:
            log.info("deployment %s does not run any more: %s", record.id, error)
            pipeline.close()
            return None
        return pipeline

    async def _attempt(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        pipeline: Pipeline | None,
        onlookers: Onlookers,
    ) -> Mended:
        stages = await self._look(record)
        whole = all(stage.info is not None for stage in stages)
        cut_off = pipeline.cut_off if pipeline is not None and whole else None
        if whole and cut_off is None:
            return await self._connected(record, stages, pipeline)
        nodes = await self._candidates(record.serving.dtype)
        digests = await asyncio.to_thread(self._library.digests, description)
        found = stages
        if cut_off is not None:
            stages = [replace(stage, info=None) if stage is stages[cut_off] else stage for stage in stages]
            nodes = [node for node in nodes if node.node_id != stages[cut_off].seat.node.id]
        placement = await self._moved(record, description, digests, stages, nodes)
        if placement is None and whole:  # nobody else has room, and the line may come back
            return await self._connected(record, found, pipeline)
        if placement is None:
            return await self._anew(record, description, pipeline, stages, nodes, onlookers)
        onlookers.tell(_moving(stages, placement, record.model_name))
        seats = await seats_of(self._registry, self._nodes, [each.node.node_id for each in placement.stages])
        check_addresses(seats)
        changed = [stage for stage, found in enumerate(stages) if found.info is None]
        # What is left stops before anything else: its journals must not go on.
        resumed = await _halted(record, pipeline, changed)
        onlookers.loads()
        try:
            loaded = await self._deployer.reload(
                record, description, digests, placement, seats, changed, onlookers.progressed, onlookers.cancel
            )
        except NodeError as error:
            self._shun(error, seats)
            raise
        await self._registry.call(lambda known: note_moved(known, [each.shard for each in stages], seats))
        moved = [replace(found, seat=seat) for found, seat in zip(stages, seats, strict=True)]
        onlookers.tell(f"Connecting {record.model_name} anew")
        mended = await self._linked(record, moved, loaded, pipeline, _went(stages, seats), resumed, changed)
        left = [
            (found.seat.node.id, number)
            for number, (found, seat) in enumerate(zip(stages, seats, strict=True))
            if seat.node.id != found.seat.node.id
        ]
        alike = all(numerics(self._nodes, old) == numerics(self._nodes, seats[stage].node.id) for old, stage in left)
        return replace(mended, left=tuple(left), alike=alike)

    async def _connected(self, record: DeploymentRecord, stages: Sequence[_Stage], pipeline: Pipeline | None) -> Mended:
        """All stages are there: link them anew, with the states that they have."""
        resumed = await _halted(record, pipeline, ())
        return await self._linked(record, stages, [stage.info for stage in stages], pipeline, "", resumed)

    # --- who is there ------------------------------------------------------------------------------------

    async def _look(self, record: DeploymentRecord) -> list[_Stage]:
        """Every stage, as its node holds it."""
        shards = await self._registry.call(lambda known: known.shards.list(deployment_id=record.id))
        if not shards or any(shard.node_id is None for shard in shards):
            failed, why = DeploymentStatus.FAILED, "A node that held a part of it was removed."
            await self._registry.call(lambda known: known.deployments.update(record.id, status=failed, error=why))
            raise RequestError(
                f"The deployment of {record.model_name} has lost a node that was removed.", "Deploy the model again."
            )
        seats = await seats_of(self._registry, self._nodes, [shard.node_id for shard in shards])
        return list(
            await asyncio.gather(*(self._found(record, shard, seat) for shard, seat in zip(shards, seats, strict=True)))
        )

    async def _found(self, record: DeploymentRecord, shard: ShardRecord, seat: Seat) -> _Stage:
        try:
            await seat.link.connect(LOOK_SECONDS)
            report = await seat.link.call(Health(call=0), seconds=LOOK_SECONDS)
        except NodeError as error:
            return _Stage(shard, seat, None, error)
        if self._stuck.get(seat.node.id, 0.0) > asyncio.get_running_loop().time():
            trouble = NodeError(
                f"{seat.node.hostname} answers, and does not get on.", kind="lost", node=seat.node.hostname
            )
            return _Stage(shard, seat, None, trouble)
        wanted = (record.id, shard.shard_id, record.plan_hash)
        held = (each for each in report.stages if (each.deployment, each.stage, each.plan) == wanted)
        return _Stage(shard, seat, next(held, None), None)

    async def _candidates(self, dtype: str) -> list[NodeCapacity]:
        """Nodes that are there and take new work."""
        every = await self._registry.call(lambda known: known.nodes.list())
        there = [
            node.id
            for node in every
            if not node.draining
            and not self._nodes.health.yields(node.id)
            and self._nodes.link(node.id).is_up
            and not self._is_shunned(node.id)
        ]
        found = []
        for node in there:
            try:
                found += await self._placing.capacities([node], dtype)
            except NodeError as error:
                log.info("node %d takes no lost layers: %s", node, error)
        return found

    def _shun(self, error: NodeError, seats: Sequence[Seat], *, stuck: bool = False) -> None:
        """No lost layers go to the node that failed, for a while. One that takes no more may well go on with what it
        has, unless it is stuck."""
        until = asyncio.get_running_loop().time() + SHUNNED_SECONDS
        failed = {seat.node.id: until for seat in seats if seat.link.node == error.node}
        self._shunned.update(failed)
        if stuck:
            self._stuck.update(failed)

    def _is_shunned(self, node: int) -> bool:
        return self._shunned.get(node, 0.0) > asyncio.get_running_loop().time()

    # --- what is done ------------------------------------------------------------------------------------

    async def _moved(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        digests: PartDigests,
        stages: Sequence[_Stage],
        nodes: Sequence[NodeCapacity],
    ) -> Placement | None:
        """The same stages, the lost ones where there is room; None where there is none for one of them."""
        sizes = StageSizes(description, record.serving)
        ranges = [(stage.shard.start_layer, stage.shard.end_layer) for stage in stages]
        lost = [
            LostStage(number, sizes.memory(*ranges[number]), stage.seat.node.id)
            for number, stage in enumerate(stages)
            if stage.info is None
        ]
        staying = [stage.seat.node for stage in stages if stage.info is not None]
        seats = await seats_of(self._registry, self._nodes, [node.node_id for node in nodes])
        records = {seat.node.id: seat.node for seat in seats}
        # An address on loopback is its own machine's alone.
        reachable = [
            node for node in nodes if all(each.is_loopback == records[node.node_id].is_loopback for each in staying)
        ]
        held = await self._held(description, digests, lost, ranges, reachable)
        there = {number: stage.seat.node.id for number, stage in enumerate(stages) if stage.info is not None}
        chosen = await self._placing.relocated(description, record.serving, ranges, there, lost, reachable, held)
        if chosen is None:
            return None
        by_id = {node.node_id: node for node in nodes}
        where = [
            by_id.get(chosen.get(number, stage.seat.node.id))
            or NodeCapacity(stage.seat.node.id, stage.seat.node.hostname, 0)
            for number, stage in enumerate(stages)
        ]
        return place_ranges(description, where, ranges, record.serving)

    async def _held(
        self,
        description: ModelDescription,
        digests: PartDigests,
        lost: Sequence[LostStage],
        ranges: Sequence[tuple[int, int]],
        nodes: Sequence[NodeCapacity],
    ) -> dict[tuple[int, int], int]:
        """What lies on disks already, by node and stage, where there is a choice and who is asked says so in time."""
        there = {node.node_id for node in nodes}
        asked = [(node.node_id, each.stage) for each in lost if each.node_id not in there for node in nodes]
        if len(nodes) < 2:
            return {}
        found = await asyncio.gather(
            *(self._deployer.held(description, digests, self._nodes.link(id), ranges[stage]) for id, stage in asked),
            return_exceptions=True,
        )
        return {place: held for place, held in zip(asked, found, strict=True) if isinstance(held, int)}

    async def _anew(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        pipeline: Pipeline | None,
        stages: Sequence[_Stage],
        nodes: Sequence[NodeCapacity],
        onlookers: Onlookers,
    ) -> Mended:
        """Cut and place the model anew over all who are there: no one node has room for what was lost."""
        sizes = StageSizes(description, record.serving)
        freed: dict[int, int] = {}
        for stage in stages:
            if stage.info is not None:
                node = stage.seat.node.id
                freed[node] = freed.get(node, 0) + sizes.memory(stage.shard.start_layer, stage.shard.end_layer)
        room = [replace(node, free_memory=node.free_memory + freed.get(node.node_id, 0)) for node in nodes]
        try:
            placement = await self._placing.plan_over(description, record.serving, room, record.aim or DEFAULT_AIM)
        except PlacementError as error:
            raise _nowhere(stages, sizes, error) from error
        onlookers.tell(f"Placing {record.model_name} anew over {len(placement.stages)} nodes")
        onlookers.loads()
        fresh, linked = await self._redeploy(record, description, placement, onlookers)
        if pipeline is not None:
            linked.adopt(pipeline.release())
            pipeline.close()
        where = ", ".join(f"{layers(each.start, each.end)} on {each.node.name}" for each in placement.stages)
        return Mended(fresh, linked, f"placed anew: {where}")

    async def _linked(
        self,
        record: DeploymentRecord,
        stages: Sequence[_Stage],
        told: Sequence[object],
        pipeline: Pipeline | None,
        what: str,
        resumed: Sequence[Resumed] = (),
        lost: Sequence[int] = (),
    ) -> Mended:
        ranges = [(stage.shard.start_layer, stage.shard.end_layer) for stage in stages]
        fresh = self._deployer.stages([stage.seat for stage in stages], ranges, told)  # type: ignore[arg-type]
        mended = pipeline or self._deployer.pipeline(record, fresh)
        mended.restage(fresh)
        try:
            try:
                await mended.link(await self._next_epoch(record), resumed)
                await mended.recompute(lost, resumed)
            except NodeError as error:
                if not resumed or error.kind in BREAKING:
                    raise
                log.warning("the states of deployment %s cannot be kept: %s", record.id, error)
                await mended.link(await self._next_epoch(record))
        except NodeError as error:
            if error.kind == "timeout":  # it answers beats and does no work: its compute thread hangs
                self._shun(error, [stage.seat for stage in stages], stuck=True)
            mended.broken = mended.broken or error
            if pipeline is None:
                mended.close()
            raise
        return Mended(record, mended, what or "connected anew")

    async def _next_epoch(self, record: DeploymentRecord) -> int:
        return await self._registry.call(lambda known: known.deployments.next_epoch(record.id))


def numerics(nodes: NodeDirectory, node: int) -> Numerics | None:
    """What a node computes with, as it said last."""
    welcome = nodes.link(node).welcome
    return None if welcome is None else welcome.numerics


async def _halted(record: DeploymentRecord, pipeline: Pipeline | None, lost: Sequence[int]) -> tuple[Resumed, ...]:
    """What of a pipeline's states can go on; nothing, where that cannot be told: all is then computed anew."""
    if pipeline is None or not pipeline.active or (lost and record.recovery != "exact"):
        return ()
    try:
        return await pipeline.halted(lost)
    except NodeError as error:
        if error.kind not in ("unknown_stage", "internal"):
            raise
        log.info("the states of deployment %s are not kept: %s", pipeline.deployment, error)
        return ()


def _moving(stages: Sequence[_Stage], placement: Placement, model: str) -> str:
    moved = [
        f"{layers(target.start, target.end)} on {target.node.name}"
        for found, target in zip(stages, placement.stages, strict=True)
        if found.info is None
    ]
    return f"Loading {' and '.join(moved)} of {model}"


def _went(stages: Sequence[_Stage], seats: Sequence[Seat]) -> str:
    """What became of the lost layers, in words without a full stop."""
    parts = []
    for found, seat in zip(stages, seats, strict=True):
        if found.info is None:
            what = layers(found.shard.start_layer, found.shard.end_layer)
            again = seat.node.id == found.seat.node.id
            parts.append(
                f"{what} loaded again on {seat.node.hostname}" if again else f"{what} went to {seat.node.hostname}"
            )
    return ", ".join(parts)


def _cancelled(record: DeploymentRecord) -> Cancelled:
    return Cancelled(
        f"Loading stages of {record.model_name} again was cancelled.", "Send a request to it to have them loaded."
    )


def _nowhere(stages: Sequence[_Stage], sizes: StageSizes, error: PlacementError) -> Nowhere:
    """Nothing can hold what was lost: whose layers they are, and what is missing."""
    lost = [stage for stage in stages if stage.info is None]
    first = lost[0]
    needs = ", ".join(
        f"{layers(stage.shard.start_layer, stage.shard.end_layer)} of {stage.seat.node.hostname} "
        f"({size_text(sizes.memory(stage.shard.start_layer, stage.shard.end_layer))})"
        for stage in lost
    )
    why = next((f" {stage.trouble.message}" for stage in lost if stage.trouble is not None), "")
    return Nowhere(
        f"No node that is there has room for {needs}.{why} {error.message}",
        "Bring the node back, add another one, or free memory on those that are there.",
        kind=getattr(first.trouble, "kind", "memory"),
        node=first.seat.node.hostname,
    )


def note_moved(registry: Registry, shards: Sequence[ShardRecord], seats: Sequence[Seat]) -> None:
    """Write down where the stages of a deployment are now. In the registry's thread."""
    for shard, seat in zip(shards, seats, strict=True):
        registry.shards.update(shard.id, node_id=seat.node.id, is_loaded=True)
