"""The nodes of the registry with a live link each: add after a check, remove with what they hold, drain.

The one place in which a record, a link and a health watch belong together. What happens to nodes goes
out through one callback; the registry is told here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import zmq.asyncio

from app.cluster.agent_link import AgentLink
from app.cluster.beats import BeatBook
from app.cluster.controller_identity import ControllerIdentity
from app.cluster.health import (
    HealthMonitor,
    NodeDown,
    NodeEvent,
    NodeFrozen,
    NodeHealth,
    NodeMemoryJudged,
    NodeStarting,
    NodeUp,
    NodeYields,
)
from app.cluster.launching import SHUTDOWN_SECONDS, STOP_SECONDS, AgentLauncher, LaunchedAgent, LocalNode
from app.cluster.meetings import Meetings
from app.cluster.memory import AgentMemory
from app.cluster.node_records import describe, note_capacities, note_stopped, register
from app.cluster.node_state import Heard, NodeState, node_state
from app.errors import BadInput, NodeError, RegistryError, ShardboardError
from app.registry import NodeRecord, Registry
from worker_agent.wire.errors import AgentError
from worker_agent.wire.keys import KeyProblem, check_key
from worker_agent.wire.links import AddressError, Endpoint
from worker_agent.wire.messages import Drain, Health, Shutdown, Speed, StageInfo, Unload, Welcome

REMOVAL_SECONDS = 10.0
"""How long a node that is being removed may take to answer; one that is gone is removed all the same."""
REVIVAL_SECONDS = 30.0
"""How long an agent that says it is ready may take to answer."""
_SAME_KEY_SECONDS = 1.0
"""How long a node that seems to have come again may take to answer where it was before."""

_log = logging.getLogger(__name__)

MOST_SOCKETS = 32_768
"""In the controller's context. A node takes two for each connection; ZeroMQ's own limit, 1023, is that of 500 nodes."""


class NodeDirectory:
    """All registered nodes. Belongs to the loop's thread; `on_event` runs there and must not block."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        identity: ControllerIdentity,
        registry: Registry,
        launcher: AgentLauncher,
        on_event: Callable[[NodeEvent], None] = lambda event: None,
    ) -> None:
        self.health = HealthMonitor(self._record_beat, self._on_event)
        context.set(zmq.MAX_SOCKETS, MOST_SOCKETS)
        self._beats = BeatBook(registry)
        self._context = context
        self._identity = identity
        self._registry = registry
        self._launcher = launcher
        self._tell = on_event
        self._links: dict[int, AgentLink] = {}
        self._adding = asyncio.Lock()
        self._notes: set[asyncio.Task[None]] = set()
        self._speeds: dict[int, tuple[Speed, ...]] = {}
        self._starting: set[int] = set()
        self.gone: Callable[[str], str] = lambda public_key: ""
        """What the launcher that brought an agent says where its machine is not there any more."""
        self.meetings = Meetings(context, identity, self)

    async def open(self) -> None:
        """Begin to connect to every node that the registry holds."""
        for record in await self._registry.call(lambda known: known.nodes.list()):
            self._follow(record, self._link_to(record.address, record.public_key, record.hostname))

    async def close(self) -> None:
        """Close every link. Agents go on."""
        await self.meetings.close()
        await self.health.close()
        await self._beats.close()
        await asyncio.gather(*(link.close() for link in self._links.values()))
        self._links.clear()
        await asyncio.gather(*self._notes, return_exceptions=True)

    def link(self, node: int) -> AgentLink:
        """The link to a node. Raises RegistryError for one that is not registered."""
        try:
            return self._links[node]
        except KeyError:
            raise RegistryError(f"There is no node {node}.", "See `node list`.") from None

    def links(self) -> dict[int, AgentLink]:
        return dict(self._links)

    async def look(self, seconds: float) -> list[NodeRecord]:
        """All nodes, each asked now whether it is there; what came of it is written down."""

        async def ask(record: NodeRecord) -> None:
            link = self.link(record.id)
            try:
                await link.connect(seconds)
            except NodeError as error:
                _log.info("%s", error)
            if record.is_active != link.is_up:
                await self._registry.call(lambda known: known.nodes.update(record.id, is_active=link.is_up))

        await asyncio.gather(*(ask(record) for record in await self._registry.call(lambda known: known.nodes.list())))
        return await self._registry.call(lambda known: known.nodes.list())

    def heard(self, node: int) -> Heard:
        """What is known of a node's agent now. Nothing is asked."""
        gone = self.gone(self._links[node].server_key) if node in self._links else ""
        return replace(self.health.heard(node), starting=node in self._starting, gone=gone)

    def state(self, record: NodeRecord) -> NodeState:
        """A node's state now."""
        return node_state(record, self.heard(record.id))

    def stage(self, node: int, deployment: str, stage: int) -> StageInfo | None:
        """A stage as its agent told it in the last beat; None when nothing is heard of it."""
        latest = self.health.latest(node) if self.health.is_alive(node) else None
        held = () if latest is None else latest.report.stages
        return next((info for info in held if (info.deployment, info.stage) == (deployment, stage)), None)

    async def memory(self, node: int, seconds: float) -> AgentMemory | None:
        """What an agent's process holds beside what is accounted for, asked now; None when it cannot be reached."""
        try:
            link = self.link(node)
            await link.connect(seconds)
            return AgentMemory.of(node, await link.call(Health(call=0), seconds=seconds))
        except (NodeError, RegistryError) as error:
            _log.info("%s", error)
            return None

    # --- adding ---

    async def add(self, address: str, public_key: str, *, seconds: float = 10.0) -> NodeRecord:
        """Check an agent and register it. A node with the same key is moved to this address instead.

        Raises:
            BadInput: the address or the key is mistyped.
            NodeError: refused, timeout, wrong_key, not_allowed or version; nothing is registered then.
            RegistryError: another node has this address.
        """
        return await self._add(address, public_key, local_pid=None, seconds=seconds)

    async def _add(self, address: str, public_key: str, *, local_pid: int | None, seconds: float) -> NodeRecord:
        try:
            endpoint, key = Endpoint.parse(address), check_key(public_key)
        except (AddressError, KeyProblem) as error:
            raise BadInput(str(error)) from error
        async with self._adding:  # two calls for one agent must not both find it missing
            link = self._link_to(endpoint.address, key, "")
            try:
                welcome = await link.connect(seconds)
                await self._check_alone(link, welcome)
                record = await self._registry.call(lambda known: register(known, endpoint, key, welcome, local_pid))
                # Whatever it was told last, perhaps by a registry that has forgotten it.
                await link.call(Drain(call=0, draining=record.draining))
            except BaseException:
                await link.close()
                raise
            await self._forget(record.id)  # the link to where it was before
            self._follow(record, link)
            return record

    async def _check_alone(self, link: AgentLink, welcome: Welcome) -> None:
        """A node may come again at another address; while its agent runs at the old one, the new one has a copied key.

        Raises NodeError, before anything is moved.
        """
        for known in self._links.values():
            if known.server_key != link.server_key or known.address == link.address:
                continue
            with suppress(NodeError):
                await known.connect(_SAME_KEY_SECONDS)
                # asked anew: a link may not have noticed yet that its agent is gone
                there = await known.call(Health(call=0), seconds=_SAME_KEY_SECONDS)
                if there.boot != welcome.boot:
                    break
        else:
            return
        _log.warning("the agent at %s has the key of %s, which runs at %s", link.address, known.node, known.address)
        raise NodeError(
            f"The agent at {link.address} has the same key as {known.node}, which runs at {known.address}: its folder "
            "was copied, or somebody has taken its key.",
            "Every agent has a key of its own: end the copy, delete agent.key in its folder, and start it again.",
            kind="copied_key",
        )

    # --- agents on this machine ---

    def clear_abandoned(self) -> None:
        """End agents here that nobody knows of, since their controller was killed while it started them. Blocks."""
        self._launcher.clear_abandoned()

    async def start_local(
        self,
        count: int,
        *,
        threads: int | None = None,
        memory: int | None = None,
        device: str | None = None,
        keep: bool = True,
    ) -> list[NodeRecord]:
        """Start agents on this machine, which go on when this process ends, and register them.

        Without `keep`, `stop_local` ends them.

        Raises NodeError or BadInput; none of this call is left then, neither nodes nor agents.
        """
        launched = await self._launcher.start(count, threads=threads, memory=memory, device=device, keep=keep)
        try:
            return [await self._add_launched(agent) for agent in launched]
        except BaseException:
            await asyncio.shield(self._take_back(launched))
            raise

    async def _take_back(self, launched: list[LaunchedAgent]) -> None:
        """Whoever asks again gets as many as are asked for, not those of the first time besides."""
        keys = {agent.public_key for agent in launched}
        for record in await self._registry.call(lambda known: known.nodes.list()):
            if record.public_key in keys:  # one whose adding was cancelled may be registered, too
                await self.remove(record.id)
        await asyncio.gather(*(self._launcher.end(key) for key in keys))

    async def revive(self, node: int, *, keep: bool | None = None) -> NodeRecord:
        """Start the agent of a node that was launched here, if it does not run: same key, same port, same parts.

        `keep` as for `start_local`; None leaves it as it is. Raises NodeError when it was not launched here
        or cannot be started.
        """
        record = await self._registry.call(lambda known: known.nodes.get(node))
        self._starting.add(node)
        if not self.health.is_alive(node):
            self._tell(NodeStarting(node, datetime.now(UTC)))
        try:
            return await self._revive(record, keep)
        except BaseException as error:
            self.health.not_started(node, str(error))
            raise
        finally:
            self._starting.discard(node)

    async def _revive(self, record: NodeRecord, keep: bool | None) -> NodeRecord:
        node = record.id
        agent = await self._launcher.revive(record.public_key, keep=keep)
        link = self._links.get(node)
        if link is None or link.address != agent.address:
            return await self._add_launched(agent)
        link.dial()
        if not await link.wait_up(REVIVAL_SECONDS):
            raise link.error()
        return await self._registry.call(lambda known: known.nodes.update(node, local_pid=agent.pid))

    async def stop(self, node: int) -> NodeRecord:
        """End the agent of a node that was launched here, in good order where it listens; the node stays.

        Within about ten seconds, whatever the agent does. Raises NodeError when it was not launched here.
        """
        record = await self._registry.call(lambda known: known.nodes.get(node))
        link, leaving = self._links.get(node), False
        if await self.was_launched_here(record.public_key) and link is not None and link.is_up:
            try:
                await link.call(Shutdown(call=0), seconds=STOP_SECONDS)
                leaving = True
            except NodeError as error:
                _log.info("%s is made to stop: %s", link.node, error)
        await self._launcher.stop(record.public_key, grace=STOP_SECONDS if leaving else 0.0)
        return await self._registry.call(lambda known: note_stopped(known, node))

    async def stop_local(self, *, keep_flagged: bool = True) -> list[NodeRecord]:
        """Stop the agents that were launched here and run, all at once; those to be kept go on, unless told otherwise.

        Returns the nodes that were stopped. Raises the first NodeError of one that could not be.
        """
        wanted = [
            local.record
            for local in (await self.local()).values()
            if local.runs and not (local.agent.keep and keep_flagged)
        ]
        ended = await asyncio.gather(*(self.stop(record.id) for record in wanted), return_exceptions=True)
        for each in ended:
            if isinstance(each, BaseException):
                raise each
        return [each for each in ended if isinstance(each, NodeRecord)]

    async def local(self) -> dict[int, LocalNode]:
        """The nodes whose agents were launched here, by id, whether they run or not."""

        def read() -> dict[str, tuple[LaunchedAgent, bool]]:
            return {agent.public_key: (agent, agent.process() is not None) for agent in self._launcher.launched()}

        agents = await asyncio.to_thread(read)
        return {
            record.id: LocalNode(record, *agents[record.public_key])
            for record in await self._registry.call(lambda known: known.nodes.list())
            if record.public_key in agents
        }

    async def was_launched_here(self, public_key: str) -> bool:
        """Of an agent, so that it can be revived and is ended when its node is removed."""
        return await asyncio.to_thread(self._launcher.find, public_key) is not None

    async def launched_here(self) -> frozenset[str]:
        """The public keys of the agents that were launched here."""
        return frozenset(agent.public_key for agent in await asyncio.to_thread(self._launcher.launched))

    @contextmanager
    def ending(self, nodes: Collection[int]) -> Iterator[None]:
        """While agents are ended on purpose, which `note_stopped` follows: that they go is no trouble then, not even a
        moment later. If that fails, they count as they did before."""
        for node in nodes:
            self.health.ending(node)
        try:
            yield
        except BaseException:
            for node in nodes:
                self.health.ending(node, False)
            raise

    async def note_stopped(self, node: int) -> NodeRecord:
        """A node's agent was ended on purpose: it counts as stopped, not as lost."""
        self.health.ended(node)
        return await self._registry.call(lambda known: note_stopped(known, node))

    async def _add_launched(self, agent: LaunchedAgent) -> NodeRecord:
        return await self._add(agent.address, agent.public_key, local_pid=agent.pid, seconds=REVIVAL_SECONDS)

    # --- removing and draining ---

    async def remove(self, node: int) -> NodeRecord:
        """Unload what the node holds, end its agent if it was launched here, and forget the node and its shards.

        A node that cannot be reached is removed all the same. Deployments that need it must be taken down
        before: this looks after the node only.
        """
        record = await self._registry.call(lambda known: known.nodes.get(node))
        link = self._links.get(node)
        local = await self.was_launched_here(record.public_key)
        leaving = link is not None and link.is_up and await self._empty(link, record.draining, shut_down=local)
        await self._forget(node)
        if local:
            await self._launcher.end(record.public_key, grace=SHUTDOWN_SECONDS if leaving else 0.0)
        return await self._registry.call(lambda known: known.nodes.remove(node))

    async def _empty(self, link: AgentLink, draining: bool, *, shut_down: bool) -> bool:
        """Unload this node's stages. One that belongs to another controller stays. Returns whether all was done."""
        try:
            if draining:  # whoever adds the agent again has a node that takes work
                await link.call(Drain(call=0, draining=False), seconds=REMOVAL_SECONDS)
            report = await link.call(Health(call=0), seconds=REMOVAL_SECONDS)
            for stage in report.stages:
                try:
                    await link.call(Unload(call=0, deployment=stage.deployment, stage=stage.stage))
                except NodeError as error:
                    if error.kind not in ("not_allowed", "unknown_stage"):
                        raise
                    _log.info("stage %d of %s stays: %s", stage.stage, stage.deployment, error)
            if shut_down:
                await link.call(Shutdown(call=0), seconds=REMOVAL_SECONDS)
        except NodeError as error:
            _log.warning("%s is being removed and does not do what it is asked: %s", link.node, error)
            return False
        return True

    async def drain(self, node: int, draining: bool = True) -> NodeRecord:
        """Have a node take no new work, or take it again. Raises NodeError when it cannot be told."""
        await self.link(node).call(Drain(call=0, draining=draining))
        return await self._registry.call(lambda known: known.nodes.update(node, draining=draining))

    # --- within ---

    def _link_to(self, address: str, key: str, name: str) -> AgentLink:
        identity = self._identity
        return AgentLink(
            self._context, address, key, identity.keys, boot=identity.boot, controller=identity.name, node=name
        )

    def _follow(self, record: NodeRecord, link: AgentLink) -> None:
        link.node, link.hostname = f"node {record.id} ({record.hostname})", record.hostname
        self._links[record.id] = link
        link.open()
        self.health.watch(record.id, link)

    async def _forget(self, node: int) -> None:
        await self.health.unwatch(node)
        self._speeds.pop(node, None)
        link = self._links.pop(node, None)
        if link is not None:
            await link.close()

    def _on_event(self, event: NodeEvent) -> None:
        if isinstance(event, NodeUp | NodeDown | NodeFrozen | NodeMemoryJudged | NodeYields):
            if not isinstance(event, NodeMemoryJudged | NodeYields):
                self._speeds.pop(event.node, None)  # the Welcome that is noted now may be older than the last beat
            self._keep(asyncio.create_task(self._note(event)))
        elif isinstance(event, NodeHealth) and event.report.speeds not in ((), self._speeds.get(event.node)):
            self._speeds[event.node] = event.report.speeds
            self._keep(asyncio.create_task(self._note_speeds(event.node, event.report.speeds)))
        self._tell(event)

    def _keep(self, note: asyncio.Task[None]) -> None:
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _record_beat(self, node: int, at: datetime, active: bool) -> None:
        await self._beats.note(node, at, active)

    async def _note_speeds(self, node: int, speeds: tuple[Speed, ...]) -> None:
        """An agent measures after it is ready, so what it finds comes with a beat."""
        told = msgspec.to_builtins(speeds)

        def write(registry: Registry) -> None:
            known = registry.nodes.get(node).capacities
            if known.get("speeds") != told:
                registry.nodes.update(node, capacities={**known, "speeds": told})

        try:
            await self._registry.call(write)
        except ShardboardError as error:
            _log.warning("the speed of node %d could not be noted: %s", node, error)

    async def _note(self, event: NodeUp | NodeDown | NodeFrozen | NodeMemoryJudged | NodeYields) -> None:
        """Write down what happened to a node, and what it says it has."""
        if isinstance(event, NodeDown) and event.on_purpose:
            return
        level, message = describe(event)
        try:
            if isinstance(event, NodeUp):
                link = self._links.get(event.node)
                record = await self._registry.call(lambda known: note_capacities(known, event.node, event.welcome))
                if record.draining and link is not None:  # an agent that was started anew knows nothing of it
                    await link.call(Drain(call=0, draining=True))
            await self._registry.call(
                lambda known: known.events.add(level, "health", message, node_id=event.node, at=event.at)
            )
        except (ShardboardError, AgentError) as error:
            _log.warning("what happened to node %d could not be noted: %s", event.node, error)
