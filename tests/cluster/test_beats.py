"""Heartbeats of many nodes, written together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zmq.asyncio

from app.cluster.beats import BeatBook
from app.cluster.controller_identity import ControllerIdentity
from app.cluster.launching import AgentLauncher
from app.cluster.nodes import NodeDirectory
from app.errors import RegistryError
from app.paths import Home
from app.registry import Registry

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
NODES = 50


def with_nodes(root: Path) -> Registry:
    registry = Registry.open(root / "registry.sqlite3")
    for number in range(NODES):
        registry.nodes.add(hostname=f"n{number}", ip_address="10.0.0.1", port=7000 + number, public_key=f"k{number}")
    return registry


def test_what_comes_at_once_is_written_at_once_and_nobody_is_forgotten(tmp_path: Path) -> None:
    writes: list[int] = []

    async def beat(registry: Registry) -> None:
        book = BeatBook(registry)
        noted = registry.nodes.heartbeats

        def counted(beats: Mapping[int, tuple[datetime, bool]]) -> None:
            writes.append(len(beats))
            noted(beats)

        registry.nodes.heartbeats = counted  # type: ignore[method-assign]
        for _ in range(2):
            await asyncio.gather(*(book.note(node.id, NOON, node.id % 3 > 0) for node in registry.nodes.list()))
        await book.close()

    with with_nodes(tmp_path) as registry:
        asyncio.run(beat(registry))
        assert all(node.is_active == (node.id % 3 > 0) for node in registry.nodes.list())
    assert writes == [NODES, NODES]


def test_what_cannot_be_written_is_told_to_each_that_waits(tmp_path: Path) -> None:
    async def beat(registry: Registry) -> None:
        book = BeatBook(registry)
        registry.close()
        found = await asyncio.gather(*(book.note(node, NOON, True) for node in (1, 2)), return_exceptions=True)
        assert [type(each) for each in found] == [RegistryError, RegistryError]
        with pytest.raises(RegistryError):  # and the next one is tried again
            await book.note(1, NOON, True)

    asyncio.run(beat(with_nodes(tmp_path)))


def test_a_controller_may_have_sockets_for_thousands_of_nodes(tmp_path: Path) -> None:
    async def limit(registry: Registry) -> int:
        home = Home(tmp_path / "home", tmp_path / "models").create()
        context, identity = zmq.asyncio.Context(), ControllerIdentity.of(home)
        nodes = NodeDirectory(context, identity, registry, AgentLauncher(home, identity.keys.public))
        try:
            return int(context.get(zmq.MAX_SOCKETS))
        finally:
            await nodes.close()
            context.destroy(linger=0)

    with with_nodes(tmp_path) as registry:
        # Two for each connection, of which a node has two while weights go to it.
        assert asyncio.run(limit(registry)) >= 4 * 5000
