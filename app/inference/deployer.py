"""From a placement to a pipeline that answers: send what each node lacks, load the stages, link the ring."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from app.children.work import JobProgress, NodeProgress
from app.cluster.agent_link import AgentLink
from app.cluster.fetching import Holder, Received, fetch_parts
from app.cluster.nodes import NodeDirectory
from app.cluster.weights import OFFER_COUNT, RECONNECT_SECONDS, PartReader, SendProgress, send_parts
from app.errors import Cancelled, NodeError, PlacementError, ShardboardError
from app.inference.events import StepPassed
from app.inference.pipeline import Pipeline
from app.inference.stages import PipelineStage
from app.models.description import COMPUTE_ITEM_BYTES, ModelDescription, PartSource
from app.models.digests import PartDigests
from app.models.part_bytes import part_bytes
from app.registry import DeploymentRecord, DeploymentStatus, NodeRecord, Registry
from app.sharding.placement import Placement
from app.sharding.stage_sizes import journal_bytes, sequences_at_once
from worker_agent.wire.messages import MAX_FRAME_BYTES, Load, Loaded, Offer, Part, StageInfo, Unload, plan_hash

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PREFILL_CHUNK = 256
"""Prompt tokens in one step at most: small enough that a long prompt does not hold up who is decoding."""

HURRIED_SECONDS = 2.0
"""How long a node that takes over lost layers may be away while they are sent: answers wait for it."""

OnProgress = Callable[[NodeProgress], None]
"""Told of the phases of a deployment: `hashing` is the controller's own work and has no node. Then each node is told of
by itself: `sending`, at least once, of its parts' stored bytes; `loading` of each of its stages; `linking`; `ready`.
The last two come with the bytes of the last phase, all of them done.
"""


@dataclass(frozen=True)
class Seat:
    """A node with its link, as a stage needs it."""

    node: NodeRecord
    link: AgentLink


async def seats_of(registry: Registry, nodes: NodeDirectory, node_ids: Iterable[int | None]) -> list[Seat]:
    """The nodes of these ids, as they stand; those that are gone from a shard are left out. Raises RegistryError."""
    wanted = [node for node in node_ids if node is not None]
    records = await registry.call(lambda known: [known.nodes.get(node) for node in wanted])
    return [Seat(record, nodes.link(record.id)) for record in records]


@dataclass(frozen=True)
class Deployed:
    """What came of it."""

    record: DeploymentRecord
    pipeline: Pipeline
    sent_bytes: int
    """Bytes of weights that went over the wire; what the nodes held already did not."""


class Deployer:
    """Carries out placements. One `deploy` at a time per deployment; several may run side by side.

    Args:
        others: every node that is there; what one lacks another may have.
    """

    def __init__(
        self,
        registry: Registry,
        is_idle: Callable[[int], bool],
        on_step: Callable[[StepPassed], None],
        on_interrupted: Callable[[Pipeline], None],
        others: Callable[[], Awaitable[Sequence[Seat]]],
    ) -> None:
        self._registry, self._is_idle, self._others = registry, is_idle, others
        self._on_step, self._on_interrupted = on_step, on_interrupted

    async def deploy(
        self,
        description: ModelDescription,
        digests: PartDigests,
        placement: Placement,
        seats: Sequence[Seat],
        on_progress: OnProgress,
        cancel: asyncio.Event,
        on_begun: Callable[[DeploymentRecord], None],
        on_linked: Callable[[Pipeline], None],
        *,
        apart: bool = False,
    ) -> Deployed:
        """Load every stage of a placement and link them.

        Args:
            seats: for each stage of the placement its node, in order.
            on_begun: told of the deployment's record once there is one.
            on_linked: told of the pipeline before anybody can find the deployment ready.
            apart: for the caller alone. The registry goes on calling it loading, so that nobody finds it, and what a
                killed controller leaves of it is freed like any deployment that it had not finished.

        Raises:
            NodeError: a node failed; PlacementError: it does not fit; Cancelled. What was loaded is unloaded
                again, what was sent stays on the nodes for the next time.
        """
        check_addresses(seats)
        config = await asyncio.to_thread(description.config_bytes)
        parts = await self._hash(description, digests, on_progress, cancel)
        ranges = list(placement.ranges)
        weights = [sum(part.nbytes for part in description.stage_parts(start, end)) for start, end in ranges]
        serving = placement.serving
        plan = plan_hash(parts, ranges, (serving.dtype, serving.quantize, serving.kv_dtype), config)
        id = secrets.token_hex(4)
        pipeline: Pipeline | None = None
        try:
            record = await self._registry.call(lambda known: _note_begun(known, id, plan, placement, seats))
            on_begun(record)
            sent = await self._send_all(description, parts, seats, ranges, on_progress, cancel)
            loaded = await self._load_all(record, description, config, parts, placement, seats, on_progress, cancel)
            pipeline = self.pipeline(record, self.stages(seats, ranges, loaded))
            _tell_all("linking", seats, weights, on_progress)
            await pipeline.link(await self._registry.call(lambda known: known.deployments.next_epoch(id)))
            on_linked(pipeline)
            if apart:
                record = await self._registry.call(lambda known: known.deployments.get(id))
            else:
                record = await self._registry.call(lambda known: _note_ready(known, id))
        except BaseException as error:
            if pipeline is not None:
                pipeline.close()
            await asyncio.shield(self._give_up(id, seats, error))
            raise
        _tell_all("ready", seats, weights, on_progress)
        return Deployed(record, pipeline, sent)

    async def held(
        self, description: ModelDescription, digests: PartDigests, link: AgentLink, layers: tuple[int, int]
    ) -> int:
        """How many bytes of a stage's weights an agent has on its disk. Raises NodeError."""
        parts = await asyncio.to_thread(digests.parts)
        by_key = {(part.kind, part.index): part for part in parts}
        wanted = [by_key[source.kind, source.index] for source in description.stage_parts(*layers)][:OFFER_COUNT]
        offer = Offer(
            call=0, digests=tuple(part.digest for part in wanted), sizes=tuple(part.nbytes for part in wanted)
        )  # fmt: skip
        return sum((await link.call(offer, seconds=HURRIED_SECONDS)).held)

    async def reload(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        digests: PartDigests,
        placement: Placement,
        seats: Sequence[Seat],
        lost: Sequence[int],
        on_progress: OnProgress,
        cancel: asyncio.Event,
    ) -> list[Loaded]:
        """Load the lost stages of a deployment, perhaps on other nodes than before; tell the others who they are.

        What each stage's agent says of it, in order. Raises NodeError, Cancelled; what was loaded then is unloaded
        again.
        """
        async with self._or_taken_away(record.id, lost, seats):
            parts = await self._sent(
                description, digests, placement, seats, lost, on_progress, cancel, HURRIED_SECONDS
            )  # fmt: skip
            return await self.announce(record, description, parts, placement, seats, None, on_progress, cancel)

    async def bring(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        digests: PartDigests,
        placement: Placement,
        seats: Sequence[Seat],
        moved: Sequence[int],
        on_progress: OnProgress,
        cancel: asyncio.Event,
    ) -> None:
        """Load stages where they are to be, while they go on running where they are. Nobody is told of that yet.

        Raises NodeError, Cancelled; what was loaded then is unloaded again.
        """
        async with self._or_taken_away(record.id, moved, seats):
            parts = await self._sent(description, digests, placement, seats, moved, on_progress, cancel)
            await self.announce(record, description, parts, placement, seats, moved, on_progress, cancel)

    async def _sent(
        self,
        description: ModelDescription,
        digests: PartDigests,
        placement: Placement,
        seats: Sequence[Seat],
        stages: Sequence[int],
        on_progress: OnProgress,
        cancel: asyncio.Event,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> tuple[Part, ...]:
        """Have some stages' nodes hold what is needed there. All parts of the model."""
        parts = await self._hash(description, digests, on_progress, cancel)
        where, ranges = [seats[stage] for stage in stages], [placement.ranges[stage] for stage in stages]
        await self._send_all(description, parts, where, ranges, on_progress, cancel, reconnect_seconds)
        return parts

    @asynccontextmanager
    async def _or_taken_away(
        self, deployment: str, stages: Sequence[int], seats: Sequence[Seat]
    ) -> AsyncIterator[None]:
        """When the block fails, nothing is left of what it loaded."""
        try:
            yield
        except BaseException:
            await asyncio.shield(self.take_away(deployment, {stage: seats[stage] for stage in stages}))
            raise

    async def announce(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        parts: Sequence[Part],
        placement: Placement,
        seats: Sequence[Seat],
        stages: Sequence[int] | None = None,
        on_progress: OnProgress = lambda progress: None,
        cancel: asyncio.Event | None = None,
    ) -> list[Loaded]:
        """Tell stages, all of them by default, who their neighbours are; those that are not loaded are loaded.

        What their agents say of them, in order. Raises NodeError.
        """
        config = await asyncio.to_thread(description.config_bytes)
        return await self._load_all(
            record, description, config, parts, placement, seats, on_progress, cancel or asyncio.Event(), stages
        )

    async def take_away(self, deployment: str, seats: Mapping[int, Seat]) -> None:
        """Free some stages of a deployment. A node that is away is passed over: it starts empty anyway."""
        for stage, seat in seats.items():
            with suppress(NodeError):
                await seat.link.call(Unload(call=0, deployment=deployment, stage=stage))

    def stages(
        self, seats: Sequence[Seat], ranges: Sequence[tuple[int, int]], loaded: Sequence[Loaded | StageInfo]
    ) -> list[PipelineStage]:
        """The stages of a pipeline.

        Args:
            loaded: for each stage, how its agent says that it runs.
        """
        return [
            PipelineStage(
                number, seat.node.id, seat.node.hostname, seat.node.address, seat.node.public_key, seat.node.machine,
                start, end, seat.link, ways=told.ways, reuse=told.reuse, answers_alone=told.answers_alone,
                block_tokens=told.block_tokens,
            )
            for number, (seat, (start, end), told) in enumerate(zip(seats, ranges, loaded, strict=True))
        ]  # fmt: skip

    def pipeline(self, record: DeploymentRecord, stages: Sequence[PipelineStage]) -> Pipeline:
        """The pipeline of stages that are loaded; it still has to be linked."""
        return Pipeline(record.id, stages, self._is_idle, self._on_step, record.dtype, self._on_interrupted)

    async def unload(self, deployment: str, seats: Sequence[Seat]) -> None:
        """Free what a deployment holds on its nodes. A node that is away is passed over: it starts empty anyway."""
        await self.take_away(deployment, dict(enumerate(seats)))

    async def _hash(
        self, description: ModelDescription, digests: PartDigests, on_progress: OnProgress, cancel: asyncio.Event
    ) -> tuple[Part, ...]:
        loop = asyncio.get_running_loop()

        def report(progress: JobProgress) -> None:
            told = NodeProgress(
                "hashing", None, "", progress.done_bytes, progress.total_bytes, progress.bytes_per_second
            )
            loop.call_soon_threadsafe(on_progress, told)

        return await asyncio.to_thread(digests.parts, on_progress=report, cancelled=cancel.is_set)

    async def _send_all(
        self,
        description: ModelDescription,
        parts: Sequence[Part],
        seats: Sequence[Seat],
        ranges: Sequence[tuple[int, int]],
        on_progress: OnProgress,
        cancel: asyncio.Event,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> int:
        by_key = {(part.kind, part.index): part for part in parts}
        wanted: dict[int, list[tuple[Part, PartReader]]] = {}
        links: dict[int, Seat] = {}
        for seat, (start, end) in zip(seats, ranges, strict=True):
            links[seat.node.id] = seat
            wanted.setdefault(seat.node.id, []).extend(
                (by_key[source.kind, source.index], _reader(description, source))
                for source in description.stage_parts(start, end)
            )

        async def send(seat: Seat) -> int:
            def report(sent: SendProgress) -> None:
                on_progress(
                    NodeProgress(
                        "sending", seat.node.id, seat.node.hostname, sent.done_bytes, sent.total_bytes,
                        sent.bytes_per_second, sent.already_bytes,
                    )
                )  # fmt: skip

            async def bring() -> int:
                there = await self._fetched(seat, [part for part, _ in wanted[seat.node.id]], on_progress, cancel)
                return there.bytes + await send_parts(
                    seat.link, wanted[seat.node.id], report, cancel,
                    reconnect_seconds=reconnect_seconds, already=there.already,
                )  # fmt: skip

            return await _unless(cancel, bring())

        return sum(await _all(send(seat) for seat in links.values()))

    async def _fetched(
        self, seat: Seat, parts: Sequence[Part], on_progress: OnProgress, cancel: asyncio.Event
    ) -> Received:
        """Have a node get from others what they hold and it lacks. One on the controller's own machine does not: nobody
        is nearer to it than the controller."""
        others = [
            Holder(other.link, other.node.address, other.node.public_key)
            for other in await self._others()
            if other.node.id != seat.node.id and not other.node.is_loopback and not seat.node.is_loopback
        ]
        each_once = list({part.digest: part for part in parts}.values())
        total = sum(part.nbytes for part in each_once)

        def report(done: int, already: int) -> None:
            on_progress(NodeProgress("sending", seat.node.id, seat.node.hostname, done, total, 0.0, already))

        target = Holder(seat.link, seat.node.address, seat.node.public_key)
        return await fetch_parts(target, others, each_once, report, cancel)

    async def _load_all(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        config: bytes,
        parts: Sequence[Part],
        placement: Placement,
        seats: Sequence[Seat],
        on_progress: OnProgress,
        cancel: asyncio.Event,
        only: Sequence[int] | None = None,
    ) -> list[Loaded]:
        by_key = {(part.kind, part.index): part for part in parts}
        count, serving = len(seats), placement.serving

        async def load(stage: int, seat: Seat, start: int, end: int) -> Loaded:
            upstream = seats[stage - 1] if stage else None
            last = seats[-1]
            message = Load(
                call=0,
                deployment=record.id,
                plan=record.plan_hash,
                epoch=record.epoch,
                stage=stage,
                stages=count,
                start=start,
                end=end,
                model=description.name[:200],
                dtype=serving.dtype,  # type: ignore[arg-type]  # checked where the placement was made
                kv_tokens=serving.kv_tokens,
                quantize=serving.quantize,  # type: ignore[arg-type]  # as well
                kv_dtype=serving.kv_dtype,  # type: ignore[arg-type]  # as well
                journal_bytes=journal_bytes(description, serving),
                max_context=serving.context,
                max_sequences=sequences_at_once(description, serving),
                prefill_chunk=prefill_chunk(description, serving.dtype),
                upstream_key=None if upstream is None or upstream.node.id == seat.node.id else upstream.node.public_key,
                ring_key=last.node.public_key if stage == 0 and last.node.id != seat.node.id else None,
            )
            wanted = [by_key[source.kind, source.index] for source in description.stage_parts(start, end)]

            def report(done: int, total: int) -> None:
                on_progress(NodeProgress("loading", seat.node.id, seat.node.hostname, done, total))

            return await _unless(cancel, seat.link.load(message, config, wanted, report))

        return await _all(
            load(stage, seat, start, end)
            for stage, (seat, (start, end)) in enumerate(zip(seats, placement.ranges, strict=True))
            if only is None or stage in only
        )

    async def _give_up(self, deployment: str, seats: Sequence[Seat], error: BaseException) -> None:
        await self.unload(deployment, seats)
        why = error.message if isinstance(error, ShardboardError) else f"{type(error).__name__}: {error}"
        failed = DeploymentStatus.FAILED
        try:
            await self._registry.call(lambda known: known.deployments.update(deployment, status=failed, error=why))
        except ShardboardError as trouble:  # perhaps the very reason why it failed, which is what has to be told
            log.error("deployment %s could not be marked as failed: %s", deployment, trouble)


def _note_begun(
    registry: Registry, id: str, plan: str, placement: Placement, seats: Sequence[Seat]
) -> DeploymentRecord:
    record = registry.deployments.add(
        id=id, model_name=placement.model_name, plan_hash=plan, serving=placement.serving,
        replica_of=placement.replica_of, aim=placement.aim,
    )  # fmt: skip
    for number, (seat, (start, end)) in enumerate(zip(seats, placement.ranges, strict=True)):
        registry.shards.add(
            node_id=seat.node.id, deployment_id=id, model_name=placement.model_name, shard_id=number,
            start_layer=start, end_layer=end, is_loaded=False,
        )  # fmt: skip
    return record


def _note_ready(registry: Registry, id: str) -> DeploymentRecord:
    for shard in registry.shards.list(deployment_id=id):
        registry.shards.update(shard.id, is_loaded=True)
    return registry.deployments.update(id, status=DeploymentStatus.READY, error=None)


def _tell_all(phase: str, seats: Sequence[Seat], weights: Sequence[int], on_progress: OnProgress) -> None:
    """Every node once, whatever it holds of the pipeline."""
    whole: dict[int, int] = {}
    for seat, nbytes in zip(seats, weights, strict=True):
        whole[seat.node.id] = whole.get(seat.node.id, 0) + nbytes
    for node, seat in {seat.node.id: seat for seat in seats}.items():
        on_progress(NodeProgress(phase, node, seat.node.hostname, whole[node], whole[node]))


def prefill_chunk(description: ModelDescription, dtype: str) -> int:
    """Prompt tokens in one step: bounded by the largest frame that their hidden states may fill."""
    return max(1, min(PREFILL_CHUNK, MAX_FRAME_BYTES // (description.hidden_size * COMPUTE_ITEM_BYTES[dtype])))


def check_addresses(seats: Sequence[Seat]) -> None:
    """A node known by a loopback address can be reached by agents on the same machine alone."""
    inside = [seat.node for seat in seats if seat.node.is_loopback]
    outside = [seat.node for seat in seats if not seat.node.is_loopback]
    if inside and outside:
        raise PlacementError(
            f"{inside[0].hostname} is known by the address {inside[0].ip_address}, where {outside[0].hostname} cannot "
            "reach it; in a pipeline every node is called by the one before it.",
            f"Start the agent of {inside[0].hostname} with --listen and this machine's own address, and add it again.",
        )


def _reader(description: ModelDescription, source: PartSource) -> PartReader:
    def read(offset: int, length: int) -> bytes:
        return b"".join(part_bytes(description.path, source, offset, length))

    return read


async def _unless(cancel: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result:
    """What something brings. Raises Cancelled once `cancel` is set, whatever it waits for then."""
    running, stopped = asyncio.ensure_future(work), asyncio.ensure_future(cancel.wait())
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise Cancelled("The deployment was cancelled.")
        return await running
    finally:
        running.cancel()
        stopped.cancel()
        await asyncio.gather(running, stopped, return_exceptions=True)


async def _all(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run together; the first failure cancels the others and is raised when they have ended."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
