"""Agents on the nodes of a Ray cluster, as a launcher.

Ray places them, starts them again when they end, and brings machines; steps and weights go between agents and
controller as ever. What speaks with Ray is a child process for each errand (`ray_process.py`); what is known between
two of them lies in a private file in the home.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from app.children.work import ChildJob, JobProgress, finished
from app.cluster.nodes import NodeDirectory
from app.errors import Cancelled, NodeError, ShardboardError
from app.launchers.launcher import LauncherName, RayWish, Report, missing_extra, unheard
from app.launchers.ray_messages import RayAgent, RayAsk, RayCluster
from app.registry import EventLevel, NodeRecord, Registry
from worker_agent.wire.files import write_private
from worker_agent.wire.keys import key_fingerprint

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 90.0
"""How long an errand at Ray may take that starts nothing."""
START_SECONDS = 200.0
"""How much longer agents may take to start: their processes import torch, on a cold disk."""


class _Kept(msgspec.Struct, frozen=True):
    """The file: what was wished for, and which agents came of it."""

    wish: RayWish | None = None
    agents: dict[str, str] = {}
    """The Ray node's id by the agent's public key; of all that were brought and not removed since."""
    gone: frozenset[str] = frozenset()
    """Public keys of those whose Ray node was not there any more when Ray was asked last."""
    resting: bool = False
    """The agents were ended since nobody asked anything; they come back with the next request."""


class RayLauncher:
    """A `Launcher`. One cluster at a time; each controller has agents of its own there.

    Args:
        path: the private file.
        controller_key: the public key that agents trust.
    """

    name: LauncherName = "ray"
    title = "Ray"

    def __init__(self, path: Path, nodes: NodeDirectory, registry: Registry, controller_key: str) -> None:
        self._path, self._nodes, self._registry = path, nodes, registry
        self._key, self._group = controller_key, key_fingerprint(controller_key)
        self._kept = _Kept()
        self._errands = asyncio.Lock()

    async def open(self) -> None:
        """Read what an earlier controller has noted."""
        self._kept = await asyncio.to_thread(_read, self._path)

    @property
    def wish(self) -> RayWish | None:
        """What was asked for last, by which agents are kept; None when nothing is kept."""
        return self._kept.wish

    @property
    def is_resting(self) -> bool:
        return self._kept.resting

    def problem(self) -> str:
        return missing_extra("ray", "Ray", "ray")

    # --- what launchers do ---

    async def start(self, wish: RayWish, report: Report = unheard) -> list[NodeRecord]:
        """See that `wish.nodes` Ray nodes keep an agent, and keep it so from now on."""
        async with self._errands:
            return await self._bring(wish, report)

    async def _bring(self, wish: RayWish, report: Report, *, whole: bool = True) -> list[NodeRecord]:
        kept = self._kept
        if kept.wish is not None and kept.wish.address != wish.address and kept.agents.keys() - kept.gone:
            raise NodeError(
                f"Agents run in the Ray cluster at {kept.wish.address}, and only one cluster is used at a time.",
                "End them first: ray down",
                kind="refused",
            )
        cluster = await self._ask("up", wish, report, whole=whole)
        report("registering the agents")
        try:
            await self._note(cluster, wish=wish, resting=False)
            return await self._registered(cluster.agents)
        except BaseException:
            begun = [agent.place for agent in cluster.agents if agent.public_key not in kept.agents or kept.resting]
            await asyncio.shield(self._undone(kept, begun))
            raise

    async def _undone(self, before: _Kept, begun: list[str]) -> None:
        try:
            await self._end(begun, unheard)
        finally:
            self._kept = before
            await self._keep()

    async def keys(self) -> frozenset[str]:
        return frozenset(self._kept.agents)

    async def stop(self, node: NodeRecord) -> NodeRecord:
        """One agent fewer is kept."""
        async with self._errands:
            with self._nodes.ending([node.id]):
                await self._end([self._place(node)], unheard)
            wish = self._wished()
            await self._keep(wish=msgspec.structs.replace(wish, nodes=max(0, wish.nodes - 1)))
        return await self._nodes.note_stopped(node.id)

    async def start_again(self, node: NodeRecord, report: Report = unheard) -> NodeRecord:
        """One agent more is kept; this one, where its Ray node is there."""
        if not self._nodes.health.is_alive(node.id):
            wish = self._wished()
            await self.start(msgspec.structs.replace(wish, nodes=wish.nodes + 1), report)
        return await self._registry.call(lambda known: known.nodes.get(node.id))

    async def update(self, node: NodeRecord, report: Report = unheard) -> NodeRecord:
        """The program goes to Ray with each `up`, so an agent that is ended and started has today's."""
        async with self._errands:
            await self._end([self._place(node)], report)
        await self.start(self._wished(), report)
        return await self._registry.call(lambda known: known.nodes.get(node.id))

    async def remove(self, node: NodeRecord) -> None:
        async with self._errands:
            kept, place = self._kept, self._place(node)
            agents = {key: where for key, where in kept.agents.items() if key != node.public_key}
            wish = kept.wish
            if wish is not None and node.public_key not in kept.gone:
                wish = msgspec.structs.replace(wish, nodes=max(0, wish.nodes - 1))
            try:
                if node.public_key not in kept.gone and not kept.resting:
                    await self._end([place], unheard, forget=True)
            except NodeError as error:
                why = f"The node is removed, and its agent stays in Ray's hands on {node.hostname}: {error}"
                await self._registry.call(lambda known: known.events.add(EventLevel.WARNING, "nodes", why))
            await self._keep(agents=agents, wish=wish if agents else None)

    def gone(self) -> Mapping[str, str]:
        return {
            key: f"Ray has no node {self._kept.agents[key][:8]} any more, on which this agent ran."
            for key in self._kept.gone & self._kept.agents.keys()
        }

    # --- of Ray alone ---

    async def look(self, address: str | None = None) -> RayCluster:
        """Ask Ray how it is. Agents that it has started again elsewhere, or with another key, are registered there, and
        those whose Ray node is gone are noted. Raises NodeError."""
        async with self._errands:
            wish = self._kept.wish or RayWish(0)
            if address is not None:
                wish = msgspec.structs.replace(wish, address=address)
            cluster = await self._ask("look", wish)
            if self._kept.wish is not None:
                await self._note(cluster)
                await self._registered(cluster.agents)
            return cluster

    async def end(self, report: Report = unheard) -> list[NodeRecord]:
        """End all agents and keep none from now on. Their nodes stay, stopped. Raises NodeError."""
        async with self._errands:
            stopped = await self._all_ended(report)
            await self._keep(wish=None, resting=False)
            return stopped

    async def rest(self) -> list[NodeRecord]:
        """End all agents until `wake`, so that Ray may let their machines go. Raises NodeError."""
        async with self._errands:
            if self._kept.resting or self._kept.wish is None:
                return []
            stopped = await self._all_ended(unheard)
            await self._keep(resting=True)
            return stopped

    async def wake(self, report: Report = unheard) -> list[NodeRecord]:
        """Bring back the agents that were ended by `rest`, at once where they run. Raises NodeError."""
        async with self._errands:
            if not self._kept.resting or self._kept.wish is None:
                return []
            return await self._bring(self._kept.wish, report)

    async def restore(self) -> list[NodeRecord]:
        """Bring agents that are missing to Ray nodes that are there, as many as there are. Raises NodeError."""
        async with self._errands:
            if self._kept.resting or self._kept.wish is None:
                return []
            return await self._bring(self._kept.wish, unheard, whole=False)

    async def _all_ended(self, report: Report) -> list[NodeRecord]:
        nodes = await self._registry.call(lambda known: known.nodes.list())
        own = [node for node in nodes if node.public_key in self._kept.agents]
        with self._nodes.ending([node.id for node in own]):
            await self._end(None, report)
        return [await self._nodes.note_stopped(node.id) for node in own]

    # --- within ---

    def _wished(self) -> RayWish:
        return self._kept.wish or RayWish(0)

    def _place(self, node: NodeRecord) -> str:
        place = self._kept.agents.get(node.public_key)
        if place is None:
            raise NodeError(f"{node.hostname} was not brought by Ray.", kind="refused", node=node.hostname)
        return place

    async def _registered(self, agents: Iterable[RayAgent]) -> list[NodeRecord]:
        """The nodes of agents. One that answers where it is stays as it is, since steps go over its link."""
        known = {node.public_key: node for node in await self._registry.call(lambda known: known.nodes.list())}
        found = []
        for agent in agents:
            node = known.get(agent.public_key)
            if node is None or node.address != agent.address or not self._nodes.health.is_alive(node.id):
                node = await self._nodes.add(agent.address, agent.public_key)
            found.append(node)
        return found

    async def _end(self, places: list[str] | None, report: Report, *, forget: bool = False) -> None:
        await self._ask("down", self._wished(), report, places=places, forget=forget)

    async def _ask(
        self, what: Literal["look", "up", "down"], wish: RayWish, report: Report = unheard, *,
        places: list[str] | None = None, forget: bool = False, whole: bool = True,
    ) -> RayCluster:  # fmt: skip
        """Send a child on an errand. Raises NodeError, Cancelled."""
        if problem := await asyncio.to_thread(self.problem):
            raise NodeError(problem, kind="refused")
        ask = RayAsk(
            do=what, address=wish.address, group=self._group, trust=self._key, nodes=wish.nodes,
            places=None if places is None else tuple(places), forget=forget, cpus=wish.cpus, gpus=wish.gpus,
            memory=wish.memory, resources=wish.resources, wait_seconds=wish.wait_seconds if whole else None,
            needs_token=wish.needs_token,
        )  # fmt: skip
        child = ChildJob(
            "app.launchers.ray_process", ask, RayCluster, what="speaking with Ray", on_progress=_told_on(report)
        )
        seconds = PATIENCE_SECONDS + (START_SECONDS + (wish.wait_seconds if whole else 0.0) if what == "up" else 0.0)
        try:
            async with asyncio.timeout(seconds):
                return await finished(asyncio.ensure_future(asyncio.to_thread(child.run)), child.cancel)
        except TimeoutError as error:
            raise NodeError(
                f"Ray at {wish.address} has not done what it was asked within {seconds:.0f} s.",
                "See `ray status` there; where its head is gone, start it again.",
                kind="timeout",
            ) from error
        except (NodeError, Cancelled):
            raise
        except ShardboardError as error:
            raise NodeError(error.message, error.advice) from error

    async def _note(self, cluster: RayCluster, **changes: object) -> None:
        """Which agents there are, and which of those that there were have lost their Ray node."""
        agents = {**self._kept.agents, **{agent.public_key: agent.place for agent in cluster.agents}}
        living = {node.place for node in cluster.nodes}
        gone = frozenset(key for key, place in agents.items() if place not in living)
        fresh = gone - self._kept.gone
        await self._keep(agents=agents, gone=gone, **changes)

        def tell(known: Registry) -> None:
            for node in known.nodes.list():
                if node.public_key in fresh:
                    known.nodes.update(node.id, is_active=False)  # whoever shows nodes looks again

        await self._registry.call(tell)

    async def _keep(self, **changes: object) -> None:
        self._kept = msgspec.structs.replace(self._kept, **changes)
        await asyncio.to_thread(write_private, self._path, msgspec.json.encode(self._kept))


def _told_on(report: Report) -> Callable[[JobProgress], None]:
    loop = asyncio.get_running_loop()

    def told(progress: JobProgress) -> None:
        loop.call_soon_threadsafe(report, progress.phase)

    return told


def _read(path: Path) -> _Kept:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (FileNotFoundError, msgspec.DecodeError):
        return _Kept()  # then its agents have to be ended by Ray's own means
