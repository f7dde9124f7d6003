"""Joining by invitation: the agent's own half (`worker_agent.host.joining`) against the controller's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import zmq.asyncio

from app.cluster import invitations
from app.cluster.controller_identity import ControllerIdentity
from app.cluster.invitations import JoinCommand, JoinListener
from app.cluster.launching import AgentLauncher
from app.cluster.nodes import NodeDirectory
from app.errors import BadInput
from app.paths import Home
from app.registry import Registry
from tests.cluster.small_agent import SmallAgent, bench
from worker_agent.host.joining import JoinFailed, join
from worker_agent.wire.keys import Invitation, KeyPair
from worker_agent.wire.messages import Hello, Joined


@dataclass
class Place:
    registry: Registry
    listener: JoinListener
    agent: SmallAgent

    async def join(self, command: JoinCommand, *, keys: KeyPair | None = None, port: int | None = None) -> Joined:
        """What `--join` does, in a thread as there."""
        invitation = Invitation.decode(command.invitation.encode())

        def work() -> Joined:
            return join(keys or self.agent.keys, invitation, hostname="box", port=port or self.agent.port, seconds=8.0)

        return await asyncio.to_thread(work)


@asynccontextmanager
async def place(root: Path) -> AsyncIterator[Place]:
    home = Home(root, root / "models").create()
    registry = Registry.open(home.registry)
    identity = ControllerIdentity.of(home)
    async with bench() as b:
        nodes = NodeDirectory(b.context, identity, registry, AgentLauncher(home, identity.keys.public))
        listener = JoinListener(identity, nodes)
        listener.open()
        try:
            yield Place(registry, listener, b.agent)
        finally:
            await listener.close()
            await nodes.close()
            registry.close()


def test_an_invited_agent_is_registered_where_it_came_from(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as p:
            command = p.listener.invite()
            joined = await p.join(command)
            assert joined.address == p.agent.address
            (record,) = p.registry.nodes.list()
            assert (record.address, record.public_key, record.is_active) == (p.agent.address, p.agent.keys.public, True)
            assert any(isinstance(message, Hello) for message in p.agent.got), "it was checked first"

    asyncio.run(scenario())


def test_an_invitation_is_good_for_one_agent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as p:
            command = p.listener.invite()
            await p.join(command)
            with pytest.raises(JoinFailed, match="used already"):
                await p.join(command)

    asyncio.run(scenario())


def test_an_invitation_grows_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invitations, "VALID_SECONDS", 0.05)

    async def scenario() -> None:
        async with place(tmp_path) as p:
            command = p.listener.invite()
            await asyncio.sleep(0.1)
            with pytest.raises(JoinFailed, match="older than ten minutes"):
                await p.join(command)
            assert p.registry.nodes.list() == []

    asyncio.run(scenario())


def test_a_made_up_token_is_refused_and_who_came_with_it_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as p:
            real = p.listener.invite()
            forged = replace(real, invitation=replace(real.invitation, token="x" * 24))
            with pytest.raises(JoinFailed, match="not valid"):
                await p.join(forged)
            assert f"key {p.agent.keys.public}) wanted to join with an invitation that is not valid" in caplog.text
            assert (await p.join(real)).address == p.agent.address, "the real one is not used up by that"

    asyncio.run(scenario())


def test_an_agent_that_cannot_be_reached_back_may_try_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as p:
            command = p.listener.invite()
            with pytest.raises(JoinFailed, match="nothing listens there"):
                await p.join(command, port=1)
            assert p.registry.nodes.list() == []
            await p.join(command)
            assert len(p.registry.nodes.list()) == 1

    asyncio.run(scenario())


def test_a_caller_that_points_at_another_agent_is_refused(tmp_path: Path) -> None:
    """Its own key does not open the other agent's handshake."""

    async def scenario() -> None:
        async with place(tmp_path) as p:
            with pytest.raises(JoinFailed, match="another key"):
                await p.join(p.listener.invite(), keys=KeyPair.make())
            assert p.registry.nodes.list() == []

    asyncio.run(scenario())


def test_a_copied_key_moves_no_node_that_runs_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two agents with one key: the second has an invitation of its own, and gets nothing by it."""

    async def scenario() -> None:
        async with place(tmp_path) as p:
            await p.join(p.listener.invite())
            theirs = zmq.asyncio.Context()
            copy = SmallAgent(theirs, keys=p.agent.keys, boot="copy1")
            await copy.start()
            try:
                with pytest.raises(JoinFailed, match="has the same key as node 1"):
                    await p.join(p.listener.invite(), keys=copy.keys, port=copy.port)
                (record,) = p.registry.nodes.list()
                assert record.address == p.agent.address
                await p.agent.stop_listening()  # it has ended there: now it has moved
                await p.join(p.listener.invite(), keys=copy.keys, port=copy.port)
                (record,) = p.registry.nodes.list()
                assert record.address == copy.address
                p.agent.listen_again()
            finally:
                await copy.stop()
                theirs.destroy(linger=0)

    asyncio.run(scenario())
    assert "has the key of node 1" in caplog.text


def test_the_commands_carry_the_invitation_and_listening_everywhere_needs_a_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        home = Home(tmp_path, tmp_path / "models").create()
        listener = JoinListener(ControllerIdentity.of(home), None, "0.0.0.0:0")  # type: ignore[arg-type]  # nobody joins
        endpoint = listener.open()
        with pytest.raises(BadInput, match="no address that another machine"):
            listener.invite()
        command = listener.invite("192.168.1.5")
        assert command.invitation.address == f"tcp://192.168.1.5:{endpoint.port}"
        for line in (command.posix, command.windows):
            assert Invitation.decode(line.rpartition(" ")[2]) == command.invitation
        await listener.close()

    asyncio.run(scenario())
