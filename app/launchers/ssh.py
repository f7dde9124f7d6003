"""Agents on machines that SSH leads to, as a launcher: how to come back to each to end, start, update or remove it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from app.cluster.nodes import NodeDirectory
from app.errors import NodeError
from app.launchers.launcher import LauncherName, Report, SshWish, missing_extra, unheard
from app.launchers.ssh_hosts import SshHosts
from app.launchers.ssh_launching import FOLDER, RemoteAgent, SshLauncher, SshTarget
from app.paths import Home
from app.registry import EventLevel, NodeRecord, Registry
from worker_agent.wire.files import write_private
from worker_agent.wire.links import DEFAULT_PORT, Endpoint

if TYPE_CHECKING:
    import asyncssh


class _Kept(msgspec.Struct, frozen=True):
    """Where an agent is, which process it was, and how it was started."""

    target: str
    pid: int
    python: str | None = None
    listen: str | None = None

    def wish(self) -> SshWish:
        return SshWish(self.target, python=self.python, listen=self.listen)


class SshAgents:
    """A `Launcher`. Each machine has one agent of ours for each of its users.

    Args:
        path: a private file that has them, by public key.
    """

    name: LauncherName = "ssh"
    title = "SSH"

    def __init__(self, path: Path, launcher: SshLauncher, nodes: NodeDirectory, registry: Registry) -> None:
        self._path, self._launcher, self._nodes, self._registry = path, launcher, nodes, registry

    @classmethod
    def of(cls, home: Home, nodes: NodeDirectory, registry: Registry, controller_key: str) -> SshAgents:
        """Those of a home. `controller_key` is the public key that agents trust."""
        launcher = SshLauncher(SshHosts(home.root / "ssh-hosts.json"), controller_key)
        return cls(home.root / "ssh-agents.json", launcher, nodes, registry)

    def problem(self) -> str:
        return missing_extra("asyncssh", "SSH", "ssh")

    async def start(self, wish: SshWish, report: Report = unheard) -> list[NodeRecord]:
        """Bring the agent there up to date, have it run, and register it. What runs there and is of today stays."""
        return [await self._brought(wish, report)]

    async def _brought(self, wish: SshWish, report: Report) -> NodeRecord:
        place = SshTarget.parse(wish.target)
        if problem := await asyncio.to_thread(self.problem):
            raise NodeError(problem, kind="refused")
        report("connecting")
        async with self._launcher.connected(place, wish.host_key) as connection:
            was_there = await self._launcher.is_there(connection)
            before = await asyncio.to_thread(self._read)
            agent, began = None, not was_there
            try:
                report("copying the agent")
                if not await self._launcher.copy(connection):
                    agent = await self._launcher.running(connection)
                if agent is None:
                    began = True
                    await self._launcher.end(connection)
                    agent = await self._started(connection, wish, report)
                await self._noted(wish, agent)
                return await self._registered(place, agent)
            except BaseException as error:
                too_slow = agent is None and isinstance(error, NodeError) and error.kind == "timeout"
                if began:
                    await asyncio.shield(self._undone(connection, was_there or too_slow))
                if agent is not None:
                    kept = before.get(agent.public_key)
                    await asyncio.shield(asyncio.to_thread(self._keep, agent.public_key, kept))
                raise

    async def _undone(self, connection: asyncssh.SSHClientConnection, stays: bool) -> None:
        """After a failure the agent runs no more. What lay there before stays, since a node's key and layers are in it;
        so does what took too long, since trying again goes on from it."""
        await (self._launcher.end(connection) if stays else self._launcher.remove(connection))

    async def _noted(self, wish: SshWish, agent: RemoteAgent) -> None:
        """Before it is a node: whoever shows that asks whose it is."""
        kept = _Kept(wish.target, agent.pid, wish.python, wish.listen)
        await asyncio.to_thread(self._keep, agent.public_key, kept)

    async def _started(self, connection: asyncssh.SSHClientConnection, wish: SshWish, report: Report) -> RemoteAgent:
        where = wish.listen or _address_of(connection)
        return await self._launcher.start(connection, where, python=wish.python, report=report)

    async def _registered(self, place: SshTarget, agent: RemoteAgent) -> NodeRecord:
        endpoint = Endpoint.parse(agent.address)
        host = place.host if endpoint.host in ("0.0.0.0", "::") else endpoint.host  # compared only
        try:
            return await self._nodes.add(str(Endpoint(host, endpoint.port)), agent.public_key)
        except NodeError as error:
            raise NodeError(
                f"The agent runs on {place.host} and cannot be reached at {host}:{endpoint.port}: {error.message}",
                f"Let TCP connections to port {endpoint.port} through that machine's firewall, or have it listen where "
                "it can be reached: --listen HOST:PORT",
                kind=error.kind,
            ) from error

    async def keys(self) -> frozenset[str]:
        return frozenset(await asyncio.to_thread(self._read))

    async def stop(self, node: NodeRecord) -> NodeRecord:
        kept = await self._kept(node)
        async with self._launcher.connected(SshTarget.parse(kept.target)) as connection:
            with self._nodes.ending([node.id]):
                await self._launcher.end(connection)
        return await self._nodes.note_stopped(node.id)

    async def start_again(self, node: NodeRecord, report: Report = unheard) -> NodeRecord:
        kept = await self._kept(node)
        place = SshTarget.parse(kept.target)
        report("connecting")
        async with self._launcher.connected(place) as connection:
            agent = await self._launcher.running(connection)
            if agent is None:
                await self._launcher.end(connection)  # one that still loads would be nobody's once another is started
                agent = await self._started(connection, kept.wish(), report)
            record = await self._registered(place, agent)
        await asyncio.to_thread(self._keep, agent.public_key, msgspec.structs.replace(kept, pid=agent.pid))
        return record

    async def update(self, node: NodeRecord, report: Report = unheard) -> NodeRecord:
        kept = await self._kept(node)
        await self.stop(node)
        return await self._brought(kept.wish(), report)

    async def remove(self, node: NodeRecord) -> None:
        """End an agent that was added over SSH and delete what lies there. Where SSH leads there no more, an event says
        what stays."""
        kept = await self._kept(node)
        try:
            async with self._launcher.connected(SshTarget.parse(kept.target)) as connection:
                await self._launcher.remove(connection)
        except NodeError as error:
            why = (
                f"The node is removed, and its agent stays on {kept.target}: {error.message} End the process "
                f"{kept.pid} there and delete ~/{FOLDER}."
            )
            await self._registry.call(lambda known: known.events.add(EventLevel.WARNING, "nodes", why))
        await asyncio.to_thread(self._keep, node.public_key, None)

    def gone(self) -> Mapping[str, str]:
        return {}  # whether a machine that does not answer is gone, SSH cannot tell

    async def _kept(self, node: NodeRecord) -> _Kept:
        kept = (await asyncio.to_thread(self._read)).get(node.public_key)
        if kept is None:
            raise NodeError(f"{node.hostname} was not added over SSH.", kind="refused", node=node.hostname)
        return kept

    def _keep(self, public_key: str, kept: _Kept | None) -> None:
        found = self._read()
        found.pop(public_key, None)
        if kept is not None:
            found[public_key] = kept
        write_private(self._path, msgspec.json.encode(found))

    def _read(self) -> dict[str, _Kept]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Kept])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}  # then it has to be ended by hand


def _address_of(connection: asyncssh.SSHClientConnection) -> str:
    """Where SSH leads to; a free port where that is this machine."""
    host = str(connection.get_extra_info("peername")[0])
    return str(Endpoint(host, 0 if host in ("127.0.0.1", "::1") else DEFAULT_PORT))
