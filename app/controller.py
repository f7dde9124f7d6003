"""The controller: registry, library, nodes, deployments and requests put together.

One object that window, HTTP and command line all drive. It lives on one asyncio loop; what takes long
runs in threads or child processes. Nothing here waits for ever.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq.asyncio

from app.children.work import JobChain, JobProgress, ProgressCallback, in_thread
from app.cluster.controller_identity import ControllerIdentity
from app.cluster.health import NodeEvent
from app.cluster.invitations import JoinCommand, first_to_join
from app.cluster.launching import AgentLauncher, LaunchedAgent
from app.cluster.memory import AgentMemory
from app.cluster.nodes import NodeDirectory
from app.controller_settings import ControllerSettings
from app.errors import BadInput, Cancelled, NodeError, RegistryError, ShardboardError
from app.event_log import EventLogHandler
from app.inference.deploying import Deployed, OnProgress
from app.inference.deployments import Deployments
from app.inference.events import StepPassed
from app.inference.facts import versions
from app.inference.parameters import GenerationParameters
from app.inference.request_run import RequestRun
from app.inference.service import InferenceService, Message
from app.inference.tokenizer import Tokenizer
from app.models.demo import ensure_demo_model
from app.models.description import ModelDescription, notes_of
from app.models.library import ModelLibrary
from app.paths import Home
from app.registry import (
    DeploymentRecord,
    DeploymentStatus,
    EventLevel,
    ModelRecord,
    NodeRecord,
    Registry,
    RequestRecord,
    RequestStatus,
)
from app.runs.job_recorder import run_job
from app.runs.reader import RunReader
from app.runs.retention import Pruned, prune
from app.runs.trace import UNKNOWN, Origin
from app.sharding.cut import CutResult, cut_model
from app.sharding.placement import Placement

log = logging.getLogger(__name__)

DATABASE_VARIABLE = "SHARDBOARD_DATABASE"
"""A database URL for the registry, instead of the SQLite file in the home."""
INVITATION_SECONDS = 600.0
ASK_SECONDS = 3.0
"""How long a node that is asked how it is may take to answer."""
PRUNE_SECONDS = 6 * 3600.0
"""How often what is too old is forgotten, beginning a minute after the start."""


class Controller:
    """See the module. Make it with `open`, end it with `close`; all methods belong to its loop."""

    def __init__(self, home: Home, registry: Registry, settings: ControllerSettings | None = None) -> None:
        self.home, self.registry = home, registry
        self.settings = settings or ControllerSettings()
        self.runs = RunReader(registry)
        self.identity = ControllerIdentity.of(home)
        self.library = ModelLibrary(home.models)
        self._context = zmq.asyncio.Context()
        self._listeners: list[Callable[[NodeEvent], None]] = []
        launcher = AgentLauncher(home, self.identity.keys.public)
        self.nodes = NodeDirectory(self._context, self.identity, registry, launcher, self._on_node_event)
        self.deployments = Deployments(registry, self.library, self.nodes)
        self.inference = InferenceService(registry, self.library, self.deployments, lambda: self.settings.records)
        self._event_log = EventLogHandler(registry)
        self._watching: asyncio.Task[None] | None = None
        self._pruning: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, home: Home, *, monitor: bool = True) -> Controller:
        """Open the registry, which no other controller may hold, and connect to the nodes.

        Args:
            monitor: watch the nodes' health; a command that needs no node goes without.

        Raises:
            RegistryError: another controller is at work, or the registry cannot be opened.
            BadInput: the settings cannot be used.
        """
        settings = await asyncio.to_thread(ControllerSettings.load, home.settings)
        location = os.environ.get(DATABASE_VARIABLE) or home.registry
        registry = await asyncio.to_thread(Registry.open, location)
        try:
            controller = cls(home, registry, settings)
        except BaseException:
            registry.close()
            raise
        controller._event_log.install()
        await asyncio.to_thread(controller.nodes.clear_abandoned)
        controller.nodes.open()
        if monitor:
            controller._watching = asyncio.get_running_loop().create_task(controller._watch())
            controller._pruning = asyncio.get_running_loop().create_task(controller._prune_at_times())
        return controller

    async def close(self) -> None:
        """Cancel what is under way and let go of everything. Agents go on with what they hold."""
        for chore in (self._watching, self._pruning):
            if chore is not None:
                chore.cancel()
        await self.inference.close()
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

    async def prune(self) -> Pruned:
        """Forget now what is older or more than the settings allow."""
        pruned = await asyncio.to_thread(prune, self.registry, self.settings.records)
        if pruned.anything:
            log.info("forgotten: %s", pruned)
        return pruned

    # --- models ----------------------------------------------------------------------------------------

    async def add_model(
        self,
        source: str,
        *,
        name: str | None = None,
        revision: str | None = None,
        on_progress: ProgressCallback | None = None,
        origin: Origin | None = None,
    ) -> ModelDescription:
        """Add a model from a folder, a Hub id or a GGUF file. Cancelling the call cancels the job.

        Args:
            origin: who asks; the job is recorded then, unless the caller does that.
        """
        chain = JobChain()

        def add(report: ProgressCallback | None) -> ModelDescription:
            job = self.library.add_job(source, name=name, revision=revision, on_progress=report)
            chain.run(job)
            return self.register_model(self.library.get(job.name))  # also when it is cancelled too late

        def told(added: ModelDescription) -> tuple[str, dict[str, object]]:
            return added.name, {"source": source, "bytes": added.weight_bytes, **notes_of(added)}

        title = f"Add {name or Path(source).name or source}"
        return await run_job(self.registry, "add", title, add, told, chain, on_progress, origin, versions())

    async def add_demo_model(self, on_progress: ProgressCallback | None = None) -> ModelDescription:
        """The small model of the demo, fetched when the library lacks it."""
        chain = JobChain()
        return await in_thread(
            lambda: self.register_model(ensure_demo_model(self.library, on_progress, chain)), chain.cancel
        )

    def register_model(self, description: ModelDescription) -> ModelDescription:
        """Note a model of the library in the registry, unless it is known there. For any thread."""
        if self.registry.models.find(description.name) is None:
            self.registry.models.add(
                name=description.name,
                folder=description.folder,
                source=description.origin or description.source,
                architecture=description.architecture,
                layers=description.num_layers,
                parameters=description.parameters,
                weight_bytes=description.weight_bytes,
                dtype=description.dtype,
                context=description.max_context,
            )
            self.registry.events.add(EventLevel.INFO, "models", f"{description.name} was added.")
            for note in description.notes:
                self.registry.events.add(EventLevel.WARNING, "models", f"{description.name}: {note}")
        return description

    async def inspect_model(self, name_or_path: str, on_progress: ProgressCallback | None = None) -> ModelDescription:
        """What is known of a model, or of a folder that is not in the library."""
        chain = JobChain()
        return await in_thread(lambda: self.library.describe(name_or_path, on_progress, chain), chain.cancel)

    async def remove_model(self, name: str) -> None:
        """Forget a model and delete what the library holds of it. Raises BadInput while it is deployed."""
        description = self.library.find(name)
        known = description.name if description is not None else name
        if self.deployments.ready(known):
            raise BadInput(f"{known} is deployed.", f"Take it down first: undeploy {known}")
        await asyncio.to_thread(self.library.remove, known)
        self.inference.forget(known)
        if self.registry.models.find(known) is not None:
            self.registry.models.remove(known)

    async def list_models(self) -> list[ModelRecord]:
        return self.registry.models.list()

    async def cut_model(
        self,
        name_or_path: str,
        *,
        num_shards: int | None = None,
        layers: str | None = None,
        output_dir: Path,
        device: str = "cpu",
        register_db: bool = False,
        node_id: int | None = None,
        on_progress: Callable[[JobProgress], None] | None = None,
        origin: Origin | None = None,
    ) -> CutResult:
        """Write self-contained shard folders; see `app.sharding.cut.cut_model`.

        Args:
            origin: who asks; the job is recorded then, unless the caller does that.
        """
        registry, chain = self.registry if register_db else None, JobChain()

        def cut(report: ProgressCallback | None) -> CutResult:
            return cut_model(
                self.library, registry, name_or_path, num_shards=num_shards, layers=layers, output_dir=output_dir,
                device=device, node_id=node_id, on_progress=report, chain=chain,
            )  # fmt: skip

        def told(result: CutResult) -> tuple[str, dict[str, object]]:
            ranges = [[shard.start_layer, shard.end_layer] for shard in result.shards]
            nbytes = sum(shard.nbytes for shard in result.shards)
            return result.model_name, {"output_dir": str(result.output_dir), "ranges": ranges, "bytes": nbytes}

        title = f"Cut {Path(name_or_path).name}"
        return await run_job(self.registry, "cut", title, cut, told, chain, on_progress, origin, versions())

    # --- nodes -----------------------------------------------------------------------------------------

    async def add_node(self, address: str, key: str) -> NodeRecord:
        """Check an agent and register it. Raises NodeError that says what is wrong, BadInput, RegistryError."""
        return await self.nodes.add(address, key)

    async def launch_local(
        self,
        count: int,
        *,
        threads: int | None = None,
        memory: int | None = None,
        device: str | None = None,
        keep: bool = True,
    ) -> list[NodeRecord]:
        """Start agents on this machine; they go on when this process ends.

        Args:
            threads: CPU threads of each; None for an equal share of the cores.
            memory: bytes that the stages of each may take; None for an equal share of what is free.
            device: cpu, cuda:0, …; None for the first GPU, else the CPU.
            keep: False lets `stop_agents` end them.
        """
        return await self.nodes.start_local(count, threads=threads, memory=memory, device=device, keep=keep)

    async def stop_agent(self, node_id: int) -> NodeRecord:
        """End the agent of a node that was launched here; node, key and parts stay. Raises NodeError."""
        record = await self.nodes.stop(node_id)
        await asyncio.to_thread(self._note_stopped, record)
        return record

    async def stop_agents(self, keep_flagged: bool = True) -> list[NodeRecord]:
        """Stop all running agents that were launched here with `keep=False`, or without `keep_flagged` all of them.

        At the same time, within about ten seconds. Raises NodeError when one cannot be stopped.
        """
        stopped = await self.nodes.stop_local(keep_flagged=keep_flagged)
        for record in stopped:
            await asyncio.to_thread(self._note_stopped, record)
        return stopped

    async def start_agent(self, node_id: int, keep: bool | None = None) -> NodeRecord:
        """Start the agent of a node that was launched here again; its deployments load again with the next request.

        Args:
            keep: as for `launch_local`; None leaves it as it was.
        """
        return await self.nodes.revive(node_id, keep=keep)

    async def stopped_agents(self) -> list[NodeRecord]:
        """The nodes whose agents were launched here and do not run."""
        local = await asyncio.to_thread(self.nodes.local)
        return [record for record, agent in local.values() if agent.process() is None]

    async def local_agents(self) -> dict[int, LaunchedAgent]:
        """How the agents of this machine were launched, by node, whether they run or not."""
        return {node: agent for node, (_, agent) in (await asyncio.to_thread(self.nodes.local)).items()}

    async def read_agent_log(self, node_id: int, max_bytes: int = 200_000) -> str:
        """The last whole lines of an agent's log, at most 1 MiB. Raises NodeError."""
        link = self.nodes.link(node_id)
        await link.connect()
        return await link.read_log(max_bytes)

    async def remove_node(self, id_or_name: str) -> NodeRecord:
        """Take down the deployments that need a node, empty it, forget it; end its agent if it was started here."""
        node = self.registry.nodes.find(id_or_name)
        for record in self.deployments.ready():
            if any(shard.node_id == node.id for shard in self.registry.shards.list(deployment_id=record.id)):
                await self.deployments.undeploy(record)
        return await self.nodes.remove(node.id)

    async def drain_node(self, id_or_name: str, draining: bool = True) -> NodeRecord:
        """Have a node take no new work, or take it again."""
        node = self.registry.nodes.find(id_or_name)
        await self.nodes.link(node.id).connect()
        return await self.nodes.drain(node.id, draining)

    async def list_nodes(self) -> list[NodeRecord]:
        """All nodes, each asked now whether it is there."""

        async def ask(node: int) -> None:
            try:
                await self.nodes.link(node).connect(ASK_SECONDS)
            except NodeError as error:
                log.info("%s", error)

        known = self.registry.nodes.list()
        await asyncio.gather(*(ask(node.id) for node in known))
        active = {node.id: self.nodes.link(node.id).is_up for node in known}
        for node in known:
            if node.is_active != active[node.id]:
                self.registry.nodes.update(node.id, is_active=active[node.id])
        return self.registry.nodes.list()

    async def node_memory(self) -> list[AgentMemory]:
        """What each node's agent holds, asked now; those that cannot be reached are left out."""
        nodes = await asyncio.to_thread(self.registry.nodes.list)
        told = await asyncio.gather(*(self.nodes.memory(node.id, ASK_SECONDS) for node in nodes))
        return [each for each in told if each is not None]

    async def invite(
        self, listen: str, on_ready: Callable[[JoinCommand], None], *, reachable_as: str | None = None
    ) -> NodeRecord:
        """Listen for one agent that joins with an invitation; its node. Raises NodeError when none comes in time."""
        return await first_to_join(
            self.identity, self.nodes, listen, on_ready, reachable_as=reachable_as, seconds=INVITATION_SECONDS
        )

    # --- deployments -----------------------------------------------------------------------------------

    async def plan(
        self,
        model: str,
        *,
        nodes: Sequence[int] | None = None,
        layers: str | None = None,
        dtype: str | None = None,
        context: int | None = None,
        kv_tokens: int | None = None,
    ) -> Placement:
        """Where a model's layers would go, with the memory that it takes there. Nothing happens yet."""
        return await self.deployments.plan(
            self.library.get(model), node_ids=nodes, layers=layers, dtype=dtype, context=context, kv_tokens=kv_tokens
        )

    async def deploy(
        self,
        model: str,
        *,
        nodes: Sequence[int] | None = None,
        layers: str | None = None,
        dtype: str | None = None,
        context: int | None = None,
        kv_tokens: int | None = None,
        on_progress: OnProgress = lambda progress: None,
        origin: Origin = UNKNOWN,
    ) -> DeploymentRecord:
        """Place a model and load it. Cancelling the call cancels the deployment and frees what it loaded."""
        return (await self.deploy_placement(
            await self.plan(
                model, nodes=nodes, layers=layers, dtype=dtype, context=context, kv_tokens=kv_tokens
            ),
            on_progress,
            origin,
        )).record  # fmt: skip

    async def deploy_placement(
        self, placement: Placement, on_progress: OnProgress = lambda progress: None, origin: Origin = UNKNOWN
    ) -> Deployed:
        """Carry out a placement, by hand or by `plan`."""
        cancel = asyncio.Event()
        work = asyncio.ensure_future(
            self.deployments.deploy(self.library.get(placement.model_name), placement, on_progress, cancel, origin)
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            cancel.set()
            await asyncio.wait({work})
            if not work.cancelled() and work.exception() is None:
                raise Cancelled("It was done when it was cancelled.") from None
            raise

    async def undeploy(self, deployment_or_model: str) -> list[DeploymentRecord]:
        """Unload a deployment by its id, or all of a model's. Raises RegistryError when there is none."""
        wanted = [
            record for record in self.deployments.ready() if deployment_or_model in (record.id, record.model_name)
        ]
        if not wanted:
            raise RegistryError(f"'{deployment_or_model}' is not deployed.", "See: deployment list")
        return [await self.deployments.undeploy(record) for record in wanted]

    def list_deployments(self, status: DeploymentStatus | None = None) -> list[DeploymentRecord]:
        return self.registry.deployments.list(status=status)

    # --- requests --------------------------------------------------------------------------------------

    def generate(
        self,
        model: str,
        prompt: str | Sequence[Message] | Sequence[int],
        parameters: GenerationParameters | None = None,
        *,
        chat: bool = False,
        origin: Origin = UNKNOWN,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> RequestRun:
        """Begin to answer a prompt: a text, chat messages, or token ids. Returns at once; iterate over it.

        Args:
            chat: render a text as one message of a chat, with the model's template.
            origin: who asks, for the record.
            tools: JSON schemas of functions that the model may call; only with chat messages.
        """
        submit = functools.partial(self.inference.submit, model, parameters=parameters, origin=origin)
        if isinstance(prompt, str):
            if chat:
                return submit(messages=[{"role": "user", "content": prompt}], tools=tools)
            return submit(prompt=prompt)
        if prompt and isinstance(prompt[0], int):
            return submit(token_ids=list(prompt))  # type: ignore[arg-type]
        return submit(messages=list(prompt), tools=tools)  # type: ignore[arg-type]

    def find_request(self, request_id: int) -> RequestRun | None:
        """A request that is under way; None for one that is over or never was."""
        return self.inference.find(request_id)

    async def tokenizer(self, model: str) -> Tokenizer:
        """A model's tokenizer. Raises ModelError when it has none."""
        return await asyncio.to_thread(self.inference.tokenizer, model)

    async def get_request(self, request_id: int) -> RequestRecord:
        return self.registry.requests.get(request_id)

    async def list_requests(
        self, *, limit: int = 100, offset: int = 0, status: RequestStatus | None = None
    ) -> list[RequestRecord]:
        return self.registry.requests.list(limit=limit, offset=offset, status=status)

    # --- within ----------------------------------------------------------------------------------------

    def _note_stopped(self, record: NodeRecord) -> None:
        self.registry.events.add(EventLevel.INFO, "nodes", "The agent was stopped.", node_id=record.id)

    def _on_node_event(self, event: NodeEvent) -> None:
        self.deployments.on_node_event(event)
        for listener in self._listeners:
            listener(event)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.deployments.watch()

    async def _prune_at_times(self) -> None:
        await asyncio.sleep(60.0)  # whoever has just opened the window has better things to wait for
        while True:
            try:
                await self.prune()
            except ShardboardError as error:
                log.warning("old records could not be forgotten: %s", error)
            await asyncio.sleep(PRUNE_SECONDS)
