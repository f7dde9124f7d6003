"""The machines that the registry knows, and whether they are there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict, Unpack

from peewee import Database, Expression

from app.errors import RegistryError
from app.registry.records import NodeRecord
from app.registry.table import Row, Table
from app.registry.tables import WorkerNode


class NodeChanges(TypedDict, total=False):
    """What `Nodes.update` can change."""

    hostname: str
    ip_address: str
    port: int
    public_key: str
    agent_id: str
    is_active: bool
    draining: bool
    last_heartbeat: datetime | None
    capacities: dict[str, object]
    local_pid: int | None


class Nodes(Table[NodeRecord]):
    model = WorkerNode
    noun = "node"
    advice = "List what there is with: node list"

    def add(
        self,
        *,
        hostname: str,
        ip_address: str,
        port: int,
        public_key: str,
        agent_id: str = "",
        is_active: bool = False,
        last_heartbeat: datetime | None = None,
        capacities: dict[str, object] | None = None,
        local_pid: int | None = None,
    ) -> NodeRecord:
        """Add a node. Raises RegistryError when its address or its key is another node's already."""

        def work(database: Database) -> NodeRecord:
            self._refuse_double(database, ip_address, port, public_key)
            return self._insert(
                database,
                {
                    "hostname": hostname,
                    "ip_address": ip_address,
                    "port": port,
                    "public_key": public_key,
                    "agent_id": agent_id,
                    "is_active": is_active,
                    "draining": False,
                    "last_heartbeat": last_heartbeat,
                    "capacities": capacities or {},
                    "local_pid": local_pid,
                },
            )

        return self._write(work)

    def get(self, id: int) -> NodeRecord:
        return self._get(id)

    def list(self) -> list[NodeRecord]:
        return self._list()

    def find(self, text: str) -> NodeRecord:
        """The node that a user means by an id, a host name, an IP address or host:port.

        Raises RegistryError when none is meant, or more than one.
        """
        wanted = text.strip().removeprefix("tcp://")
        found = self._store.read(lambda database: self._select(database, _named(wanted)))
        if not found:
            raise self._missing(text)
        if len(found) > 1:
            which = ", ".join(f"{node.id} ({node.address})" for node in found)
            raise RegistryError(f"{text} may be any of {len(found)} nodes: {which}.", "Name it by its id.")
        return found[0]

    def update(self, id: int, **changes: Unpack[NodeChanges]) -> NodeRecord:
        def work(database: Database) -> NodeRecord:
            node = self._by_id(database, id)
            self._refuse_double(
                database,
                changes.get("ip_address", node.ip_address),
                changes.get("port", node.port),
                changes.get("public_key", node.public_key),
                but=id,
            )
            return self._change(database, id, changes)

        return self._write(work)

    def heartbeat(self, id: int, at: datetime, active: bool) -> bool:
        """Note whether a node answered; `at` is kept when it did. Returns False when the node is gone meanwhile."""
        changes: dict[str, object] = {"is_active": active, "last_heartbeat": at} if active else {"is_active": active}
        query = WorkerNode.update(changes).where(WorkerNode.id == id)
        return bool(self._store.write(lambda database: query.execute(database)))

    def heartbeats(self, beats: Mapping[int, tuple[datetime, bool]]) -> None:
        """The same of many nodes at once, in one transaction; those that answered count as heard of when the last of
        them was."""
        answered = [node for node, (_, active) in beats.items() if active]
        silent = [node for node, (_, active) in beats.items() if not active]

        def work(database: Database) -> None:
            if answered:
                at = max(beats[node][0] for node in answered)
                heard = WorkerNode.update({"is_active": True, "last_heartbeat": at})
                heard.where(WorkerNode.id.in_(answered)).execute(database)
            if silent:
                WorkerNode.update({"is_active": False}).where(WorkerNode.id.in_(silent)).execute(database)

        self._store.write(work)

    def remove(self, id: int) -> NodeRecord:
        """Remove a node, and with it the shards placed on it. Returns what it was."""
        return self._remove(id)

    def _record(self, row: Row) -> NodeRecord:
        return NodeRecord(**row)

    def _refuse_double(
        self, database: Database, ip_address: str, port: int, public_key: str, but: int | None = None
    ) -> None:
        same_address = (WorkerNode.ip_address == ip_address) & (WorkerNode.port == port)
        others = [node for node in self._select(database, same_address) if node.id != but]
        if others:
            raise RegistryError(
                f"The address {ip_address}:{port} is node {others[0].id}'s ({others[0].hostname}) already.",
                f"Remove node {others[0].id} first, or start the agent on another port.",
            )
        if not public_key:
            return
        others = [node for node in self._select(database, WorkerNode.public_key == public_key) if node.id != but]
        if others:
            raise RegistryError(
                f"The agent at {ip_address}:{port} has the key of node {others[0].id} ({others[0].address}).",
                f"When it has moved, remove node {others[0].id} first; when its folder was copied from there, "
                "delete agent.key in the copy, so that it makes its own.",
            )


def _named(text: str) -> Expression:
    if text.isdecimal():
        by_id: Expression = WorkerNode.id == min(int(text), 2**31 - 1)
        return by_id
    host, colon, port = text.rpartition(":")
    name = text.strip("[]")
    named: Expression = (WorkerNode.hostname == name) | (WorkerNode.ip_address == name)
    if colon and port.isdecimal():
        name = host.strip("[]")
        named |= ((WorkerNode.hostname == name) | (WorkerNode.ip_address == name)) & (
            WorkerNode.port == min(int(port), 65535)
        )
    return named
