"""The launchers of a controller, by name and by node: the one place that knows which there are."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from app.cluster.nodes import NodeDirectory
from app.errors import NodeError
from app.launchers.here import ThisMachine
from app.launchers.launcher import Brought, Launcher, LauncherState, LocalWish, RayWish, Report, SshWish, Wish, unheard
from app.launchers.ray import RayLauncher
from app.launchers.ssh import SshAgents
from app.paths import Home
from app.registry import EventLevel, NodeRecord, Registry
from app.runs.telling import asked_by
from app.runs.trace import UNKNOWN, Origin


class Launchers:
    """Belongs to the controller's loop."""

    def __init__(self, home: Home, nodes: NodeDirectory, registry: Registry, controller_key: str) -> None:
        self._registry = registry
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By node: of ending, starting and updating its agent, one at a time."""
        self.local = ThisMachine(nodes)
        self.ssh = SshAgents.of(home, nodes, registry, controller_key)
        self.ray = RayLauncher(home.root / "ray.json", nodes, registry, controller_key)
        nodes.gone = self._gone

    def __iter__(self) -> Iterator[Launcher[Any]]:
        return iter((self.local, self.ssh, self.ray))

    async def start(self, wish: Wish, report: Report = unheard) -> list[NodeRecord]:
        """Have whose wish it is bring agents; see `Launcher.start`."""
        match wish:
            case LocalWish():
                return await self.local.start(wish, report)
            case SshWish():
                return await self.ssh.start(wish, report)
            case RayWish():
                return await self.ray.start(wish, report)

    async def of(self, node: NodeRecord) -> Launcher[Any]:
        """Who has brought a node's agent. Raises NodeError for one that was started otherwise."""
        for launcher in self:
            if node.public_key in await launcher.keys():
                return launcher
        raise NodeError(
            "This node's agent was not launched from here, so it cannot be started, stopped or updated from here.",
            "Start or stop it on its own machine.",
            kind="refused",
        )

    async def stop(self, node_id: int, origin: Origin = UNKNOWN) -> NodeRecord:
        """End a node's agent; node, key and layers stay. Raises NodeError."""
        async with self._turns[node_id]:
            node = await self._registry.call(lambda known: known.nodes.get(node_id))
            launcher = await self.of(node)
            await self._note(node_id, f"The agent is being ended{asked_by(origin)}.")
            return await launcher.stop(node)

    async def start_again(self, node_id: int, keep: bool | None = None, origin: Origin = UNKNOWN) -> NodeRecord:
        """Start the agent of a node that was ended. Raises NodeError.

        Args:
            keep: of one on this machine, whether it goes on when the window closes; None leaves it as it was.
        """
        async with self._turns[node_id]:
            node = await self._registry.call(lambda known: known.nodes.get(node_id))
            launcher = await self.of(node)
            await self._note(node_id, f"The agent is being started again{asked_by(origin)}.")
            return await (self.local.revive(node, keep) if launcher is self.local else launcher.start_again(node))

    async def update(self, node_id: int, report: Report = unheard) -> NodeRecord:
        """End a node's agent and start it with today's program. Raises NodeError."""
        async with self._turns[node_id]:
            node = await self._registry.call(lambda known: known.nodes.get(node_id))
            return await (await self.of(node)).update(node, report)

    async def remove(self, node: NodeRecord) -> None:
        """Take away what a launcher has brought to a node that was removed."""
        for launcher in self:
            if node.public_key in await launcher.keys():
                await launcher.remove(node)

    async def brought(self) -> dict[int, Brought]:
        """The nodes that launchers have brought, by id."""
        nodes = await self._registry.call(lambda known: known.nodes.list())
        found = {}
        for launcher in self:
            own, gone = await launcher.keys(), launcher.gone()
            for node in nodes:
                if node.public_key in own:
                    found[node.id] = Brought(launcher.name, gone.get(node.public_key, ""))
        return found

    async def states(self) -> list[LauncherState]:
        """All of them, whether each can be used here, and what it has brought."""
        brought = await self.brought()
        found = []
        for each in self:
            own = {id: told for id, told in brought.items() if told.launcher == each.name}
            gone = tuple(id for id, told in own.items() if told.gone)
            problem = await asyncio.to_thread(each.problem)
            found.append(LauncherState(each.name, each.title, problem, tuple(own), gone))
        return found

    async def _note(self, node_id: int, sentence: str) -> None:
        await self._registry.call(lambda known: known.events.add(EventLevel.INFO, "nodes", sentence, node_id=node_id))

    def _gone(self, public_key: str) -> str:
        return next((said for each in self if (said := each.gone().get(public_key))), "")
