"""Agents that were started on other machines over SSH: how to come back to each, for updating and removing it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from app.cluster.nodes import NodeDirectory
from app.cluster.ssh_hosts import SshHosts
from app.cluster.ssh_launching import FOLDER, RemoteAgent, SshLauncher, SshTarget
from app.errors import NodeError
from app.paths import Home
from app.registry import EventLevel, NodeRecord, Registry
from worker_agent.wire.files import write_private
from worker_agent.wire.links import DEFAULT_PORT, Endpoint

if TYPE_CHECKING:
    import asyncssh


class _Kept(msgspec.Struct, frozen=True):
    """Where an agent is, and which process it was."""

    target: str
    pid: int


class RemoteAgents:
    """Belongs to the controller's loop.

    Args:
        path: a private file that has them, by public key.
    """

    def __init__(self, path: Path, launcher: SshLauncher) -> None:
        self._path, self._launcher = path, launcher

    @classmethod
    def of(cls, home: Home, controller_key: str) -> RemoteAgents:
        """Those of a home. `controller_key` is the public key that agents trust."""
        launcher = SshLauncher(SshHosts(home.root / "ssh-hosts.json"), controller_key)
        return cls(home.root / "ssh-agents.json", launcher)

    async def add(
        self,
        nodes: NodeDirectory,
        target: str,
        *,
        host_key: str | None = None,
        python: str | None = None,
        listen: str | None = None,
        report: Callable[[str], None] = lambda phase: None,
    ) -> NodeRecord:
        """Bring the agent there up to date, have it run, and register it. What runs there and is of today stays.

        Args:
            host_key: the fingerprint of the host's key, as its owner has confirmed it.
            python: an interpreter there that has what an agent needs; None sets up an environment.
            listen: where the agent is to be reached; None stands for the address that SSH leads to.

        Raises BadInput, NodeError; what was begun is taken away then.
        """
        place = SshTarget.parse(target)
        report("connecting")
        async with self._launcher.connected(place, host_key) as connection:
            report("copying the agent")
            copied = await self._launcher.copy(connection)
            agent = None if copied else await self._launcher.running(connection)
            if agent is None:
                await self._launcher.end(connection)
                try:
                    where = listen or _address_of(connection)
                    agent = await self._launcher.start(connection, where, python=python, report=report)
                    record = await self._registered(nodes, place, agent)
                except BaseException:
                    await asyncio.shield(self._launcher.remove(connection))
                    raise
            else:
                record = await self._registered(nodes, place, agent)
        await asyncio.to_thread(self._keep, agent.public_key, _Kept(target, agent.pid))
        return record

    async def _registered(self, nodes: NodeDirectory, place: SshTarget, agent: RemoteAgent) -> NodeRecord:
        endpoint = Endpoint.parse(agent.address)
        host = place.host if endpoint.host in ("0.0.0.0", "::") else endpoint.host  # compared only
        try:
            return await nodes.add(str(Endpoint(host, endpoint.port)), agent.public_key)
        except NodeError as error:
            raise NodeError(
                f"The agent runs on {place.host} and cannot be reached at {host}:{endpoint.port}: {error.message}",
                f"Let TCP connections to port {endpoint.port} through that machine's firewall, or have it listen where "
                "it can be reached: --listen HOST:PORT",
                kind=error.kind,
            ) from error

    async def forget(self, public_key: str, registry: Registry) -> None:
        """End an agent that was added over SSH and delete what lies there. Where SSH leads there no more, an event says
        what stays."""
        kept = (await asyncio.to_thread(self._read)).get(public_key)
        if kept is None:
            return
        try:
            async with self._launcher.connected(SshTarget.parse(kept.target)) as connection:
                await self._launcher.remove(connection)
        except NodeError as error:
            why = (
                f"The node is removed, and its agent stays on {kept.target}: {error.message} End the process "
                f"{kept.pid} there and delete ~/{FOLDER}."
            )
            await registry.call(lambda known: known.events.add(EventLevel.WARNING, "nodes", why))
        await asyncio.to_thread(self._keep, public_key, None)

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
