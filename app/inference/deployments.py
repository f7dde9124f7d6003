"""The deployments that answer requests: found, brought back after a restart, and made when one node will do.

Agents keep their stages when the controller ends. A deployment that the registry calls ready is therefore mended
(`recovery.py`) when it is first needed, as it is when a stage is lost while answers are under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from app.cluster.health import NodeEvent
from app.cluster.nodes import NodeDirectory
from app.errors import BadInput, NodeError, PlacementError, RequestError, ShardboardError
from app.inference.deployer import Deployed, Deployer, OnProgress, Seat, seats_of
from app.inference.deployment_notes import note_deployed, note_undeployed
from app.inference.deployment_recorder import DeploymentRecorder
from app.inference.events import StepPassed
from app.inference.facts import FactFinder, versions
from app.inference.handover import HandedOver, Handover
from app.inference.mender import Mender
from app.inference.onlookers import Onlookers
from app.inference.pipeline import Pipeline
from app.inference.placing import Placing
from app.inference.recovery import Recovery
from app.inference.recutting import Recutting
from app.inference.replicas import Replicas
from app.inference.request_recorder import Facts
from app.inference.requested_loads import DeployAsJob, Preparing, RequestedLoads
from app.inference.stages import PipelineStage
from app.models.description import ModelDescription
from app.models.library import ModelLibrary
from app.registry import DeploymentRecord, DeploymentStatus, NodeRecord, Registry, ShardRecord
from app.registry.records import leading
from app.runs.trace import UNKNOWN, Foreseen, ModelFacts, NodeMemory, Origin
from app.sharding.placement import Placement

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0

WakeFor = Callable[[str, Preparing], Awaitable[None]]


async def _awake(model: str, preparing: Preparing) -> None:
    """Of a controller none of whose agents rest."""


class Deployments:
    """All deployments of one registry. Belongs to the controller's loop.

    Args:
        deploy_as_job: how what requests need is loaded.
        bring_back_as_job: has a job call `bring_back`, for a deployment whose stages are being loaded again.
    """

    def __init__(
        self,
        registry: Registry, library: ModelLibrary, nodes: NodeDirectory, deploy_as_job: DeployAsJob,
        bring_back_as_job: Callable[[DeploymentRecord], Awaitable[object]],
    ) -> None:  # fmt: skip
        self._registry, self._library, self._nodes = registry, library, nodes
        self._deployer = Deployer(registry, self._is_idle, self._step_passed, self._interrupted, self._there)
        self._watchers: list[Callable[[StepPassed], None]] = []
        self._finder = FactFinder(nodes, library)
        self._models: dict[str, ModelFacts] = {}
        self._placements: dict[str, Placement] = {}
        """Of the deployments that this controller made; what it found loaded is told by the nodes."""
        self._live: dict[str, Pipeline] = {}
        placing = self.placing = Placing(registry, nodes)
        recovery = Recovery(registry, nodes, library, self._deployer, placing, self._redeploy)
        self.mender = Mender(registry, nodes, library, recovery, self._live, bring_back_as_job)
        self._replicas = Replicas(registry, self.mender, self._live, placing)
        recutting = Recutting(
            placing.capacities, self.deploy, partial(self.undeploy, told=False), self._replicas.heir_of
        )
        self._handover = Handover(registry, nodes, library, self._deployer, self.mender, placing, recutting)
        self._loads = RequestedLoads(deploy_as_job, lambda dtype: placing.capacities(dtype=dtype))
        self._apart: dict[str, DeploymentRecord] = {}
        """Those that only who made them uses."""
        self._left: set[str] = set()
        """Those in which an earlier controller left something under way, until they are needed."""
        self._locks: dict[str, asyncio.Lock] = {}
        self.wake_for: WakeFor = _awake
        """Brings back the agents that a model needs and that rest while nobody asks anything."""

    # --- making and ending -----------------------------------------------------------------------------

    async def deploy(
        self,
        description: ModelDescription,
        placement: Placement,
        on_progress: OnProgress = lambda progress: None,
        cancel: asyncio.Event | None = None,
        origin: Origin = UNKNOWN,
        *,
        apart: bool = False,
    ) -> Deployed:
        """Carry out a placement. Raises what `Deployer.deploy` raises.

        Args:
            apart: for requests that name it alone; who made it has to take it down.
        """
        seats = await self._seats([stage.node.node_id for stage in placement.stages])
        if placement.foreseen is None:  # by hand, or of a model that goes to one node by itself
            placement = await self.placing.foretold(description, placement)
        digests = await asyncio.to_thread(self._library.digests, description)
        recorder = DeploymentRecorder(self._registry, self._finder, placement, origin, on_progress)
        linked: list[Pipeline] = []

        def on_linked(pipeline: Pipeline) -> None:
            linked.append(pipeline)
            self._live[pipeline.deployment], self._placements[pipeline.deployment] = pipeline, placement

        try:
            deployed = await self._deployer.deploy(
                description, digests, placement, seats, recorder.progressed, cancel or asyncio.Event(), recorder.began,
                on_linked, apart=apart,
            )  # fmt: skip
        except BaseException as error:
            for pipeline in linked:
                self._live.pop(pipeline.deployment, None)
                self._placements.pop(pipeline.deployment, None)
            await asyncio.shield(recorder.failed(description, error))
            raise
        if apart:
            self._apart[deployed.record.id] = deployed.record
        await recorder.succeeded(description, deployed.record, deployed.pipeline)
        if not apart:
            self._replicas.joined(deployed.record)
            await self._registry.call(lambda known: note_deployed(known, deployed))
        return deployed

    async def plan_replica(
        self, description: ModelDescription, node_ids: Sequence[int] | None, *, keeps: bool
    ) -> Placement:
        """As `Replicas.plan`."""
        ready = await self.ready(description.name)
        return await self.placing.foretold(
            description, await self._replicas.plan(ready, description, node_ids, keeps=keeps)
        )

    async def plan_handover(
        self, description: ModelDescription, node_ids: Sequence[int] | None, layers: str, *, keeps: bool
    ) -> Placement:
        """A deployment's stages on other nodes, or in another cut.

        Args:
            layers: as the user wrote them; empty stands for those that are.
            keeps: whether nothing else about it is to change.

        Raises BadInput, PlacementError, NodeError.
        """
        record = await self._standing(description.name)
        if not keeps:
            raise BadInput(
                "A deployment that goes on answering keeps its dtype, its context and all that it was loaded with.",
                "Leave these options out, or deploy without --live.",
            )
        return await self._handover.plan(record, description, node_ids, layers)

    async def away_from(self, node: NodeRecord) -> AsyncIterator[Placement]:
        """For each deployment that has stages on a node where they may go, one after the other as that is carried out.

        Raises PlacementError where there is no room.
        """
        shards = await self._registry.call(lambda known: known.shards.list(node_id=node.id))
        here = {shard.deployment_id for shard in shards}
        for record in [each for each in await self.ready() if each.id in here]:
            description = await asyncio.to_thread(self._library.get, record.model_name)
            yield await self._handover.away(record, description, node)

    async def _standing(self, model_name: str) -> DeploymentRecord:
        ready = await self.ready(model_name)
        if not ready:
            raise _not_deployed(model_name)
        return leading(ready)

    async def hand_over(
        self,
        description: ModelDescription,
        placement: Placement,
        on_progress: OnProgress = lambda progress: None,
        cancel: asyncio.Event | None = None,
    ) -> HandedOver:
        """Move the stages of a model's deployment that a placement has on other nodes, while it answers.

        Raises PlacementError, NodeError, Cancelled.
        """
        standing = placement.moves or (await self._standing(description.name)).id
        found = await self._linked(description, lambda what: None, standing)
        if found is None:
            raise _not_deployed(description.name)
        record, pipeline = found
        handed = await self._handover.carry_out(
            record, description, pipeline, placement, on_progress, cancel or asyncio.Event()
        )
        self._placements[handed.record.id] = placement
        return handed

    async def undeploy(self, record: DeploymentRecord, *, told: bool = True) -> DeploymentRecord:
        """End a deployment: its requests fail, its nodes free what it holds. The event log is told, unless another one
        has taken its place."""
        await self.mender.stop(record.id)
        pipeline = self._live.pop(record.id, None)
        self._placements.pop(record.id, None)
        self._replicas.ended(record.id)
        told = self._apart.pop(record.id, None) is None and told
        if pipeline is not None:
            pipeline.close()
        shards = await self._unloaded(record)
        return await self._registry.call(lambda known: note_undeployed(known, record, shards, told))

    async def facts(self, record: DeploymentRecord, pipeline: Pipeline, description: ModelDescription) -> Facts:
        """What a request on this deployment runs on, for its trace."""
        model = self._models.get(description.name)
        if model is None or not model.content:
            model = self._models[description.name] = await asyncio.to_thread(self._finder.model, description)
        nodes = [stage.node_id for stage in pipeline.stages]
        return Facts(
            versions(),
            model,
            self._finder.plan(record, pipeline, self._placements.get(record.id)),
            self._finder.nodes(nodes),
        )

    async def foretell(
        self, record: DeploymentRecord, pipeline: Pipeline, description: ModelDescription, prompt_tokens: int
    ) -> Foreseen | None:
        """What is predicted of a request on this deployment; None where a node has not measured itself."""
        stages = [(stage.start, stage.end, stage.node_id) for stage in pipeline.stages]
        return await self.placing.foretell(description, record.serving, stages, max(1, prompt_tokens))

    def memory(self, stages: Sequence[PipelineStage]) -> tuple[NodeMemory, ...]:
        """How full the nodes of a pipeline were with their last heartbeat."""
        return self._finder.memory([stage.node_id for stage in stages])

    async def ready(self, model_name: str | None = None) -> list[DeploymentRecord]:
        """Deployments that answer, or would once attached; the newest first."""
        ready = DeploymentStatus.READY
        oldest_first = await self._registry.call(
            lambda known: known.deployments.list(model_name=model_name, status=ready)
        )
        return oldest_first[::-1]

    def pipeline(self, deployment: str) -> Pipeline | None:
        """The live pipeline of a deployment, if there is one."""
        return self._live.get(deployment)

    # --- using -----------------------------------------------------------------------------------------

    async def acquire(
        self,
        description: ModelDescription, preparing: Preparing, deployment: str | None = None,
        prompt: Sequence[int] = (), origin: Origin = UNKNOWN,
    ) -> tuple[DeploymentRecord, Pipeline]:  # fmt: skip
        """A linked pipeline for a model: its deployment, or the whole model on one node that can hold it.

        Args:
            deployment: the one to use, by its id, for who must know what a request runs on.
            prompt: its tokens; of several deployments that share requests, one may have read them already.
            origin: who asks, for the record of what has to be loaded.

        Raises:
            NodeError: the deployment's nodes cannot be reached; PlacementError: it has none, and no node is
            large enough; RequestError: the one that was named is not there; Cancelled: somebody cancelled the loading.
            Nothing waits for ever.
        """
        if deployment is not None and (own := self._apart.get(deployment)) is not None:
            return own, self._live[deployment]
        await self.wake_for(description.name, preparing)
        found = await self._linked(description, preparing, deployment, prompt)
        if found is None and deployment is None:
            await self._loads.load(description, preparing, origin)
            found = await self._linked(description, preparing)
        if found is None:
            which = description.name if deployment is None else f"Deployment {deployment} of {description.name}"
            raise RequestError(f"{which} is not deployed any more.", "Send the request again.")
        return found

    async def _linked(
        self,
        description: ModelDescription, preparing: Preparing, deployment: str | None = None,
        prompt: Sequence[int] = (),
    ) -> tuple[DeploymentRecord, Pipeline] | None:  # fmt: skip
        """A deployment of a model that answers, mended first where it broke; None where there is none.

        Raises what is wrong with the newest where none can be used.
        """
        async with self._locks.setdefault(description.name, asyncio.Lock()):
            problem: ShardboardError | None = None
            ready = await self.ready(description.name)
            if ready and deployment is None:
                picked = await self._replicas.pick(ready, description, prompt)
                if picked is not None:
                    return picked, self._live[picked.id]
            for record in ready:
                if deployment not in (None, record.id):
                    continue
                pipeline = self._live.get(record.id) or await self._as_it_runs(record)
                if pipeline is not None and pipeline.broken is None:
                    return record, pipeline
                try:
                    mended = await self.mender.mended(record, preparing)
                    return mended.record, mended.pipeline
                except ShardboardError as error:
                    log.warning("deployment %s cannot be used: %s", record.id, error)
                    problem = problem or error
            if problem is not None:
                raise problem
            return None

    async def _redeploy(
        self, record: DeploymentRecord, description: ModelDescription, placement: Placement, onlookers: Onlookers
    ) -> tuple[DeploymentRecord, Pipeline]:
        """Free what is left of a deployment, and carry out another placement of its model."""
        shards = await self._unloaded(record)
        placement = replace(placement, replica_of=record.replica_of)
        deployed = await self.deploy(description, placement, onlookers.progressed, onlookers.cancel)
        self._replicas.ended(record.id)
        self._live.pop(record.id, None)
        self._placements.pop(record.id, None)
        await self._registry.call(lambda known: note_undeployed(known, record, shards, told=False))
        return deployed.record, deployed.pipeline

    async def bring_back(self, deployment: str, on_progress: OnProgress) -> DeploymentRecord:
        """Wait for a deployment to be mended, which it is already or is begun; at once where it answers.

        Raises RequestError when it was taken down, RegistryError, Cancelled, or why it cannot be mended.
        """
        record = await self._registry.call(lambda known: known.deployments.get(deployment))
        pipeline = self._live.get(deployment)
        if pipeline is not None and pipeline.broken is None:
            return record
        if record.status is not DeploymentStatus.READY:
            raise RequestError(f"The deployment of {record.model_name} was taken down.", "Deploy the model again.")
        return (await self.mender.mended(record, on_progress=on_progress)).record

    def left_under_way(self, deployments: Iterable[str]) -> None:
        """An earlier controller left something under way in these: they are joined as they run, if they still do,
        whoever needs them first."""
        self._left.update(deployments)

    async def take_back(
        self, deployment: str | None, description: ModelDescription, preparing: Preparing, origin: Origin
    ) -> tuple[DeploymentRecord, Pipeline]:
        """The pipeline in which an earlier controller began something: as it runs, if it still does, else as `acquire`
        finds or makes it. Raises what that does."""
        async with self._locks.setdefault(description.name, asyncio.Lock()):
            for record in await self.ready(description.name):
                if record.id == deployment:
                    pipeline = self._live.get(record.id) or await self._as_it_runs(record)
                    if pipeline is not None and pipeline.broken is None:
                        return record, pipeline
        return await self.acquire(description, preparing, origin=origin)

    async def _as_it_runs(self, record: DeploymentRecord) -> Pipeline | None:
        """The ring of a deployment in which an earlier controller left something under way; None where that is not so,
        or it was asked for before, or does not run any more."""
        if record.id not in self._left:
            return None
        self._left.discard(record.id)
        return await self.mender.joined(record)

    async def _seats(self, node_ids: Sequence[int]) -> list[Seat]:
        """Nodes with their links up. Raises NodeError naming the first that is away."""
        seats = await seats_of(self._registry, self._nodes, node_ids)
        for seat in seats:
            await seat.link.connect(CONNECT_SECONDS)
        return seats

    async def _there(self) -> list[Seat]:
        """Every node whose agent answers."""
        every, links = await self._registry.call(lambda known: known.nodes.list()), self._nodes.links()
        seats = [Seat(record, links[record.id]) for record in every if record.is_active and record.id in links]
        return [seat for seat in seats if seat.link.is_up]

    async def _unloaded(self, record: DeploymentRecord) -> list[ShardRecord]:
        """Free what a deployment's nodes hold of it; its shards as they were."""
        shards = await self._registry.call(lambda known: known.shards.list(deployment_id=record.id))
        seats = await seats_of(self._registry, self._nodes, [shard.node_id for shard in shards])
        await self._deployer.unload(record.id, seats)
        return shards

    # --- what happens ------------------------------------------------------------------------------------

    def on_node_event(self, event: NodeEvent) -> None:
        """A node was lost, came back, or was heard of."""
        self.mender.on_node_event(event)

    def _interrupted(self, pipeline: Pipeline) -> None:
        """Sequences wait for a pipeline that is broken. Who made one for himself sees to its end himself."""
        if pipeline.deployment in self._apart:
            pipeline.fail(pipeline.broken or NodeError("Its deployment was lost.", kind="lost"))
        else:
            self.mender.interrupted(pipeline)

    def watch(self) -> None:
        """Called each second."""
        for pipeline in list(self._live.values()):
            pipeline.watch()

    def close(self) -> None:
        """Stop listening. Agents keep what they hold."""
        self.mender.close()
        for pipeline in self._live.values():
            pipeline.close()
        self._live.clear()

    def on_step(self, listener: Callable[[StepPassed], None]) -> None:
        """Be told of every step that has gone through a pipeline, on the loop's thread; must be quick."""
        self._watchers.append(listener)

    def _step_passed(self, step: StepPassed) -> None:
        for listener in self._watchers:
            listener(step)

    def _is_idle(self, node_id: int) -> bool:
        latest = self._nodes.health.latest(node_id)
        return latest is not None and latest.report.progress.busy_seconds is None


def _not_deployed(model: str) -> PlacementError:
    return PlacementError(f"{model} is not deployed, so nothing can be handed over.", "Deploy it first.")
