"""The controller: registry, library, nodes, deployments and requests put together.

One object that window, HTTP and command line all drive. It lives on one asyncio loop; what takes long
runs in threads or child processes. Nothing here waits for ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import zmq.asyncio

from app.children.work import JobChain, ProgressCallback, finished
from app.cluster.controller_identity import ControllerIdentity
from app.cluster.health import NodeEvent
from app.cluster.invitations import JoinCommand
from app.cluster.launching import AgentLauncher
from app.cluster.link_findings import LinkFinding, findings_of
from app.cluster.memory import AgentMemory
from app.cluster.node_state import Heard
from app.cluster.nodes import NodeDirectory
from app.controller_settings import ControllerSettings
from app.errors import BadInput, RegistryError
from app.event_log import EventLogHandler
from app.inference.deployments import Deployments
from app.inference.events import StepPassed
from app.inference.facts import versions
from app.inference.handover import HandedOver
from app.inference.parameters import GenerationParameters
from app.inference.prompt import Prompt
from app.inference.request_run import RequestRun
from app.inference.service import InferenceService
from app.inference.tokenizer import Tokenizer
from app.jobs.desk import JobDesk
from app.jobs.inviting import InviteWork
from app.jobs.job import Means, Runner, in_python_thread
from app.jobs.launching import LaunchWork
from app.jobs.measuring import MeasureWork
from app.jobs.probing import LinksWork
from app.jobs.works import (
    AddWork,
    BringBackWork,
    CutWork,
    DemoWork,
    DeployForRequestsWork,
    DeployWork,
    HandOverWork,
    register_model,
)
from app.launchers.launcher import LocalWish
from app.launchers.launchers import Launchers
from app.launchers.ray_keeping import RayKeeping
from app.making_way import MakingWay
from app.models.demo import NAME as DEMO_MODEL
from app.models.description import ModelDescription
from app.models.library import ModelLibrary
from app.paths import Home
from app.registry import (
    DeploymentRecord,
    EventLevel,
    JobRecord,
    LinkRecord,
    MeasurementRecord,
    ModelRecord,
    NodeRecord,
    Registry,
)
from app.runs.measured import newest_of_each
from app.runs.reader import RunReader
from app.runs.retention import Pruned, prune
from app.runs.telling import asked_by
from app.runs.trace import UNKNOWN, Origin
from app.serving import ServingWish
from app.sharding.cut import CutResult
from app.sharding.placement import Placement
from app.sharding.planning.aims import DEFAULT_AIM
from app.upkeep import Upkeep

log = logging.getLogger(__name__)

ANY_SERVING = ServingWish()
DATABASE_VARIABLE = "SHARDBOARD_DATABASE"
"""A database URL for the registry, instead of the SQLite file in the home."""
ASK_SECONDS = 3.0
"""How long a node that is asked how it is may take to answer."""


class Controller:
    """What window, HTTP and commands drive. Made with `open`, ended with `close`; all methods belong to its loop."""

    def __init__(
        self,
        home: Home,
        registry: Registry,
        identity: ControllerIdentity,
        settings: ControllerSettings,
        runner: Runner = in_python_thread,
    ) -> None:
        self.home, self.registry, self.identity, self.settings = home, registry, identity, settings
        self.runs = RunReader(registry)
        self.library = ModelLibrary(home.models)
        self._context = zmq.asyncio.Context()
        self._listeners: list[Callable[[NodeEvent], None]] = []
        launcher = AgentLauncher(home, self.identity.keys.public)
        self.nodes = NodeDirectory(self._context, self.identity, registry, launcher, self._on_node_event)
        self.deployments = Deployments(
            registry, self.library, self.nodes,
            lambda placement, origin, told: self.jobs.do(DeployForRequestsWork(placement), origin, told),
            lambda record: self.jobs.submit(BringBackWork(record.id, record.model_name), UNKNOWN),
        )  # fmt: skip
        self.inference = InferenceService(
            registry, self.library, self.deployments, lambda: self.settings.records,
            lambda: self.settings.server.share_prompts,
        )  # fmt: skip
        self.launchers = Launchers(home, self.nodes, registry, self.identity.keys.public)
        means = Means(registry, self.library, self.deployments, self.inference, self.nodes, self.launchers, identity)
        self.jobs = JobDesk(means, runner)
        self._event_log = EventLogHandler(registry)
        making_way = MakingWay(registry, self.nodes, self.deployments, self.jobs)
        ray_keeping = RayKeeping(
            self.launchers.ray, self.nodes, registry, lambda: self.inference.running() or self.jobs.under_way
        )
        self.deployments.wake_for = ray_keeping.wake_for
        self._upkeep = Upkeep(self.deployments.watch, self.prune, making_way, ray_keeping)

    @classmethod
    async def open(cls, home: Home, *, monitor: bool = True, runner: Runner = in_python_thread) -> Controller:
        """Open the registry, which no other controller may hold, and connect to the nodes.

        Args:
            monitor: watch the nodes' health; a command that needs no node goes without.
            runner: runs the work of jobs, where that blocks.

        Raises:
            RegistryError: another controller is at work, or the registry cannot be opened.
            BadInput: the settings cannot be used.
        """
        settings = await asyncio.to_thread(ControllerSettings.load, home.settings)
        location = os.environ.get(DATABASE_VARIABLE) or home.registry
        registry = await asyncio.to_thread(Registry.open, location)
        try:
            controller = cls(home, registry, await asyncio.to_thread(ControllerIdentity.of, home), settings, runner)
        except BaseException:
            registry.close()
            raise
        controller._event_log.install()
        await asyncio.to_thread(controller.nodes.clear_abandoned)
        await asyncio.to_thread(versions)  # read once, and then remembered
        await controller.launchers.ray.open()
        await controller.nodes.open()
        if monitor:
            controller._upkeep.begin()
        return controller

    async def take_back(self) -> None:
        """Go on with the requests that an earlier controller left under way: for one that stays, as window and service
        do. A command that opens one for a moment leaves them where they are."""
        await self.inference.take_back()

    async def close(self) -> None:
        """Cancel what is under way and let go of everything. Agents go on with what they hold."""
        self._upkeep.end()
        # Both at once: a request that waits for a job counts as cancelled, not as failed for want of it.
        await asyncio.gather(self.jobs.close(), self.inference.close())
        self.deployments.close()
        await self.nodes.close()
        self._context.destroy(linger=0)
        await asyncio.to_thread(self._event_log.close)
        await asyncio.to_thread(self.registry.close)

    def on_node_event(self, listener: Callable[[NodeEvent], None]) -> None:
        """Be told what happens to nodes, on the loop's thread."""
        self._listeners.append(listener)

    def on_step(self, listener: Callable[[StepPassed], None]) -> None:
        """Be told of every step that goes through a pipeline, on the loop's thread."""
        self.deployments.on_step(listener)

    # --- settings and records --------------------------------------------------------------------------

    async def change_settings(self, settings: ControllerSettings) -> None:
        """Save settings and follow them from now on. Raises BadInput for one that cannot be used, OSError."""
        await asyncio.to_thread(settings.save, self.home.settings)
        self.settings = settings

    async def prune(self, origin: Origin = UNKNOWN) -> Pruned:
        """Forget now what is older or more than the settings allow; an event says what, and who asked."""
        pruned = await asyncio.to_thread(prune, self.registry, self.settings.records)  # may take minutes
        if pruned.anything:
            said = f"Forgotten: {pruned}{asked_by(origin)}."
            log.info(said)
            await self.registry.call(lambda known: known.events.add(EventLevel.INFO, "records", said))
        return pruned

    # --- models ----------------------------------------------------------------------------------------

    async def add_model(
        self,
        source: str, *, name: str | None = None, revision: str | None = None, dequantize: bool = False,
        on_progress: ProgressCallback | None = None, origin: Origin = UNKNOWN,
    ) -> ModelDescription:  # fmt: skip
        """Add a model from a folder, a Hub id or a GGUF file. Cancelling the call cancels the job."""
        return await self.jobs.do(AddWork(source, name, revision, dequantize), origin, on_progress)

    async def add_demo_model(
        self, on_progress: ProgressCallback | None = None, origin: Origin = UNKNOWN
    ) -> ModelDescription:
        """The small model of the demo, fetched when the library lacks it."""
        found = await asyncio.to_thread(self.library.find, DEMO_MODEL)
        if found is None:
            return await self.jobs.do(DemoWork(), origin, on_progress)
        await self.registry.call(lambda known: register_model(known, found))
        return found

    async def inspect_model(self, name_or_path: str, on_progress: ProgressCallback | None = None) -> ModelDescription:
        """What is known of a model, or of a folder that is not in the library."""
        chain = JobChain()
        describe = asyncio.to_thread(self.library.describe, name_or_path, on_progress, chain)
        return await finished(asyncio.ensure_future(describe), chain.cancel)

    async def remove_model(self, name: str) -> None:
        """Forget a model and delete what the library holds of it. Raises BadInput while it is deployed."""
        description = await asyncio.to_thread(self.library.find, name)
        model = description.name if description is not None else name
        if await self.deployments.ready(model):
            raise BadInput(f"{model} is deployed.", f"Take it down first: undeploy {model}")
        await asyncio.to_thread(self.library.remove, model)
        self.inference.forget(model)
        await self.registry.call(lambda known: known.models.find(model) and known.models.remove(model))

    async def list_models(self) -> list[ModelRecord]:
        return await self.registry.call(lambda known: known.models.list())

    async def cut_model(
        self,
        name_or_path: str, *, num_shards: int | None = None, layers: str | None = None, output_dir: Path,
        device: str = "cpu", register_db: bool = False, node_id: int | None = None,
        on_progress: ProgressCallback | None = None, origin: Origin = UNKNOWN,
    ) -> CutResult:  # fmt: skip
        """Write self-contained shard folders; see `app.sharding.cut.cut_model`. Cancelling the call cancels the job.

        Args:
            register_db: enter the shards in the registry, for a node if one is given.
        """
        work = CutWork(name_or_path, output_dir, num_shards, layers, register_db, node_id, device)
        return await self.jobs.do(work, origin, on_progress)

    async def measure_model(
        self,
        model: str, *, serving: ServingWish = ANY_SERVING, nodes: Sequence[int] | None = None,
        layers: str | None = None, against: str | None = None, on_progress: ProgressCallback | None = None,
        origin: Origin = UNKNOWN,
    ) -> MeasurementRecord:  # fmt: skip
        """What a model's numbers cost; see `app.jobs.measuring`. Cancelling the call cancels the job.

        Args:
            serving: in what numbers; context and KV tokens are the measuring's own affair.
            against: another model to compare with, instead of its own floats.
        """
        chosen = None if nodes is None else tuple(nodes)
        return await self.jobs.do(MeasureWork(model, serving, chosen, layers, against), origin, on_progress)

    async def measurements(self, model: str) -> list[MeasurementRecord]:
        """What the measuring of a model found, the newest of each kind."""
        return newest_of_each(await self.registry.call(lambda known: known.measurements.list(model)))

    # --- jobs ------------------------------------------------------------------------------------------

    async def follow_job(self, job_id: int, on_progress: ProgressCallback) -> JobRecord:
        """Wait until a job is over, whoever began it; see `JobDesk`. Cancelling the call does not cancel the job."""
        return await self.jobs.follow(job_id, on_progress)

    async def cancel_job(self, job_id: int) -> JobRecord:
        """End a job, whoever began it. Raises Conflict when it is over, RegistryError when there is none."""
        return await self.jobs.cancel(job_id)

    async def retry_job(self, job_id: int, origin: Origin = UNKNOWN) -> JobRecord:
        """Begin a job that failed or was cancelled once more; the new one. Raises Conflict, RegistryError."""
        return await self.jobs.retry(job_id, origin)

    # --- nodes -----------------------------------------------------------------------------------------

    async def add_node(self, address: str, key: str) -> NodeRecord:
        """Check an agent and register it. Raises NodeError that says what is wrong, BadInput, RegistryError."""
        return await self.nodes.add(address, key)

    async def launch_local(
        self,
        count: int,
        *, threads: int | None = None, memory: int | None = None, device: str | None = None, keep: bool = True,
        on_progress: ProgressCallback | None = None, origin: Origin = UNKNOWN,
    ) -> list[NodeRecord]:  # fmt: skip
        """Start agents on this machine; they go on when this process ends. Cancelling the call cancels the job.

        Args:
            threads: CPU threads of each; None for an equal share of the cores.
            memory: bytes that the stages of each may take; None for an equal share of what is free.
            device: cpu, cuda:0, …; None for the first GPU, else the CPU.
            keep: False lets `stop_agents` end them.
        """
        return await self.jobs.do(LaunchWork(LocalWish(count, threads, memory, device, keep)), origin, on_progress)

    async def stop_agent(self, node_id: int, origin: Origin = UNKNOWN) -> NodeRecord:
        """End the agent of a node that a launcher has brought; node, key and parts stay. Raises NodeError."""
        return await self.launchers.stop(node_id, origin)

    async def stop_agents(self, keep_flagged: bool = True) -> list[NodeRecord]:
        """Stop all running agents that were launched here with `keep=False`, or without `keep_flagged` all of them.

        At the same time, within about ten seconds. Raises NodeError when one cannot be stopped.
        """
        return await self.nodes.stop_local(keep_flagged=keep_flagged)

    async def start_agent(self, node_id: int, keep: bool | None = None, origin: Origin = UNKNOWN) -> NodeRecord:
        """Start the agent of a node that a launcher has brought again; its deployments load with the next request.

        Args:
            keep: as for `launch_local`, of one that was launched here; None leaves it as it was.
        """
        return await self.launchers.start_again(node_id, keep, origin)

    async def stopped_agents(self) -> list[NodeRecord]:
        """The nodes whose agents were launched here and do not run."""
        return [local.record for local in (await self.nodes.local()).values() if not local.runs]

    async def read_agent_log(self, node_id: int, max_bytes: int = 200_000) -> str:
        """The last whole lines of an agent's log, at most 1 MiB. Raises NodeError."""
        link = self.nodes.link(node_id)
        await link.connect()
        return await link.read_log(max_bytes)

    async def remove_node(self, id_or_name: str) -> NodeRecord:
        """Take down the deployments that need a node, empty it, forget it; end its agent if it was started here."""
        node = await self.registry.call(lambda known: known.nodes.find(id_or_name))
        shards = await self.registry.call(lambda known: known.shards.list(node_id=node.id))
        needing = {shard.deployment_id for shard in shards}
        for record in await self.deployments.ready():
            if record.id in needing:
                await self.deployments.undeploy(record)
        removed = await self.nodes.remove(node.id)
        await self.launchers.remove(removed)
        return removed

    async def drain_node(
        self,
        id_or_name: str,
        draining: bool = True,
        move: bool = False,
        on_progress: ProgressCallback | None = None,
        origin: Origin = UNKNOWN,
    ) -> NodeRecord:
        """Have a node take no new work, or take it again.

        Args:
            move: hand what it holds over to other nodes, while it answers. Raises PlacementError where no other node
                has room for it; what has moved until then stays where it is now.
        """
        node = await self.registry.call(lambda known: known.nodes.find(id_or_name))
        await self.nodes.link(node.id).connect()
        drained = await self.nodes.drain(node.id, draining)
        if move and draining:
            async for placement in self.deployments.away_from(node):
                await self.jobs.do(HandOverWork(placement), origin, on_progress)
        return drained

    async def list_nodes(self) -> list[NodeRecord]:
        """All nodes, each asked now whether it is there."""
        return await self.nodes.look(ASK_SECONDS)

    async def heard_of_nodes(self) -> dict[int, Heard]:
        """What is known of each node's agent, by the node's id: `node_state` makes its state of it. None is asked."""
        return {node: self.nodes.heard(node) for node in self.nodes.links()}

    async def node_memory(self) -> list[AgentMemory]:
        """What each node's agent holds, asked now; those that cannot be reached are left out."""
        nodes = await self.registry.call(lambda known: known.nodes.list())
        told = await asyncio.gather(*(self.nodes.memory(node.id, ASK_SECONDS) for node in nodes))
        return [each for each in told if each is not None]

    async def measure_links(
        self,
        nodes: Sequence[int] | None = None,
        on_progress: ProgressCallback | None = None,
        origin: Origin = UNKNOWN,
    ) -> list[LinkRecord]:
        """Measure the links between these nodes, or all that answer; see `app.jobs.probing`. Cancelling the call
        cancels the job."""
        return await self.jobs.do(LinksWork(None if nodes is None else tuple(nodes)), origin, on_progress)

    async def link_findings(self) -> list[LinkFinding]:
        """What was measured of each link last, with what there is to say of it. Nothing is asked."""
        return await self.registry.call(lambda known: findings_of(known.links.list(), known.nodes.list()))

    async def invite(
        self, listen: str, on_ready: Callable[[JoinCommand], None], *, reachable_as: str | None = None,
        origin: Origin = UNKNOWN,
    ) -> NodeRecord:  # fmt: skip
        """Listen for one agent that joins with an invitation; its node. Cancelling the call cancels the job.

        Raises NodeError when none comes in time.
        """
        return await self.jobs.do(InviteWork(listen, reachable_as, on_ready), origin)

    # --- deployments -----------------------------------------------------------------------------------

    async def plan(
        self, model: str, *, nodes: Sequence[int] | None = None, layers: str | None = None,
        serving: ServingWish = ANY_SERVING, live: bool = False, replica: bool = False, aim: str = DEFAULT_AIM,
    ) -> Placement:  # fmt: skip
        """Where a model's layers would go, why, and what memory that takes. Nothing happens yet.

        Nodes are used in the order given. What is left open the planner chooses, for an aim (one of `AIMS`).

        Args:
            live: a deployed model's stages on other nodes, as they are cut.
            replica: its stages once more, on these nodes, or on others with room.
        """
        description, as_it_is = await asyncio.to_thread(self.library.get, model), serving == ANY_SERVING
        if live and replica:
            raise BadInput("Stages either move or get a replica.", "Leave out one of --live and --replica.")
        if live:
            return await self.deployments.plan_handover(description, nodes, layers or "", keeps=as_it_is)
        if replica:
            return await self.deployments.plan_replica(description, nodes, keeps=as_it_is and layers is None)
        completed = serving.completed(description.dtype, description.max_context)
        return await self.deployments.placing.plan(description, completed, node_ids=nodes, layers=layers, aim=aim)

    async def deploy(
        self,
        model: str, *, nodes: Sequence[int] | None = None, layers: str | None = None,
        serving: ServingWish = ANY_SERVING, replica: bool = False, aim: str = DEFAULT_AIM,
        on_progress: ProgressCallback | None = None,
        origin: Origin = UNKNOWN,
    ) -> DeploymentRecord:  # fmt: skip
        """Place a model and load it. Cancelling the call cancels the job, which frees what it loaded.

        Args:
            aim: of the plan, as for `plan`.
            replica: load what is deployed a second time, to share its requests and to stand in when one is lost.
        """
        placement = await self.plan(model, nodes=nodes, layers=layers, serving=serving, replica=replica, aim=aim)
        return (await self.jobs.do(DeployWork(placement), origin, on_progress)).record

    async def hand_over(
        self,
        model: str, *, nodes: Sequence[int] | None = None, layers: str | None = None,
        serving: ServingWish = ANY_SERVING, on_progress: ProgressCallback | None = None, origin: Origin = UNKNOWN,
    ) -> HandedOver:  # fmt: skip
        """Move the stages of what a model has deployed to `nodes`, while it answers. Raises BadInput, PlacementError,
        NodeError."""
        placement = await self.plan(model, nodes=nodes, layers=layers, serving=serving, live=True)
        return await self.jobs.do(HandOverWork(placement), origin, on_progress)

    async def undeploy(self, deployment_or_model: str) -> list[DeploymentRecord]:
        """Unload a deployment by its id, or all of a model's. Raises RegistryError when there is none."""
        wanted = [
            record for record in await self.deployments.ready() if deployment_or_model in (record.id, record.model_name)
        ]
        if not wanted:
            raise RegistryError(f"'{deployment_or_model}' is not deployed.", "See: deployment list")
        return [await self.deployments.undeploy(record) for record in wanted]

    # --- requests --------------------------------------------------------------------------------------

    async def generate(
        self,
        model: str,
        prompt: Prompt,
        parameters: GenerationParameters | None = None,
        *,
        origin: Origin = UNKNOWN,
    ) -> RequestRun:
        """Begin to answer a prompt; iterate over what it returns. Raises ModelError, RequestError.

        Args:
            origin: who asks, for the record.
        """
        return await self.inference.submit(model, prompt, parameters, origin=origin)

    def find_request(self, request_id: int) -> RequestRun | None:
        """A request that is under way; None for one that is over or never was."""
        return self.inference.find(request_id)

    async def tokenizer(self, model: str) -> Tokenizer:
        """A model's tokenizer. Raises ModelError when it has none."""
        return await asyncio.to_thread(self.inference.tokenizer, model)

    # --- within ----------------------------------------------------------------------------------------

    def _on_node_event(self, event: NodeEvent) -> None:
        self.deployments.on_node_event(event)
        self._upkeep.on_node_event(event)
        for listener in self._listeners:
            listener(event)
