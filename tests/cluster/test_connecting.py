"""Connecting to an agent: each reason why it cannot be reached is told from the others."""

from __future__ import annotations

import asyncio
import socket

import pytest

from app.cluster.agent_link import AgentLink, LinkChange, LinkDown, LinkUp
from app.errors import NodeError
from tests.cluster.small_agent import bench
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.messages import WIRE_VERSION, Failed, Hello

NEWER = WIRE_VERSION + 1


async def failure_of(link: AgentLink, seconds: float = 8.0) -> NodeError:
    with pytest.raises(NodeError) as caught:
        await link.connect(seconds)
    await link.close()
    return caught.value


def test_a_trusted_controller_is_welcomed() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            welcome = await link.connect()
            assert (welcome.agent, welcome.hostname) == (b.agent.keys.agent_id, "box")
            assert link.is_up and link.trouble is None
            await link.close()

    asyncio.run(scenario())


def test_a_port_where_nothing_listens_is_refused() -> None:
    async def scenario() -> None:
        async with bench() as b:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            error = await failure_of(b.link(address=f"tcp://127.0.0.1:{port}"))
            assert error.kind == "refused"
            assert f"127.0.0.1:{port}" in error.message and "Start the agent" in error.advice

    asyncio.run(scenario())


def test_a_name_that_does_not_exist_is_named() -> None:
    async def scenario() -> None:
        async with bench() as b:
            error = await failure_of(b.link(address="tcp://no-such-host.invalid:7600"))
            assert error.kind == "refused" and "no-such-host.invalid could not be resolved" in error.message

    asyncio.run(scenario())


def test_a_socket_that_accepts_and_says_nothing_times_out() -> None:
    async def scenario() -> None:
        async with bench() as b:
            with socket.socket() as silent:
                silent.bind(("127.0.0.1", 0))
                silent.listen()
                error = await failure_of(b.link(address=f"tcp://127.0.0.1:{silent.getsockname()[1]}"), 1.0)
            assert error.kind == "timeout" and "firewall" in error.advice

    asyncio.run(scenario())


def test_a_half_handshake_is_given_up_by_itself() -> None:
    """ZeroMQ's own limit of 5 s, without the caller's."""

    async def scenario() -> None:
        async with bench() as b:
            with socket.socket() as silent:
                silent.bind(("127.0.0.1", 0))
                silent.listen()
                error = await failure_of(b.link(address=f"tcp://127.0.0.1:{silent.getsockname()[1]}"), 30.0)
            assert error.kind == "timeout" and "says nothing" in error.message

    asyncio.run(scenario())


def test_another_key_than_the_agents_is_a_wrong_key() -> None:
    async def scenario() -> None:
        async with bench() as b:
            error = await failure_of(b.link(server_key=KeyPair.make().public))
            assert error.kind == "wrong_key" and "another key" in error.message

    asyncio.run(scenario())


def test_an_agent_that_does_not_trust_the_controller_says_so_and_is_tried_again() -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.agent.allowed = lambda key: False
            link = b.link()
            with pytest.raises(NodeError) as caught:
                await link.connect()
            assert caught.value.kind == "not_allowed"
            b.agent.allowed = lambda key: True
            assert await link.wait_up(8.0), "ZeroMQ gives up after a refused key; the link must not"
            await link.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["envelope", "welcome", "failed"])
def test_another_version_is_told_whichever_way_the_agent_says_it(how: str) -> None:
    async def scenario() -> None:
        async with bench() as b:
            if how == "envelope":
                b.agent.wire_version = NEWER
            elif how == "welcome":
                b.agent.version = NEWER
            else:
                b.agent.answers[Hello] = Failed(call=0, kind="version", message=f"This agent speaks 7 to {NEWER}.")
            error = await failure_of(b.link())
            assert error.kind == "version" and str(NEWER) in error.message and "same version" in error.advice

    asyncio.run(scenario())


def test_what_is_no_agent_is_told_as_such() -> None:
    async def scenario() -> None:
        async with bench() as b:

            async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read(10)
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100)
                await writer.drain()
                writer.close()

            async with await asyncio.start_server(http, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                error = await failure_of(b.link(address=f"tcp://127.0.0.1:{port}"))
            assert error.kind == "version" and "another protocol" in error.message

    asyncio.run(scenario())


def test_a_restarted_agent_is_told_from_one_that_was_cut_off() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            changes: list[LinkChange] = []
            await link.connect()
            link.on_change(changes.append)
            for boot in (None, "boot2"):
                await b.agent.stop_listening()
                await until_down(link)
                b.agent.listen_again(boot)
                assert await link.wait_up(8.0)
            ups = [change.restarted for change in changes if isinstance(change, LinkUp)]
            assert ups == [False, True]
            assert any(isinstance(change, LinkDown) for change in changes)
            await link.close()

    asyncio.run(scenario())


async def until_down(link: AgentLink) -> None:
    async with asyncio.timeout(5):
        while link.is_up:
            await asyncio.sleep(0.01)


def test_closing_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with bench() as b:
            before = asyncio.all_tasks()
            links = [b.link(), b.link(address="tcp://127.0.0.1:1"), b.link(server_key=KeyPair.make().public)]
            await links[0].connect()
            for link in links[1:]:
                link.open()
            waiting = asyncio.create_task(_swallow(links[2]))
            await asyncio.sleep(0.05)
            for link in links:
                await link.close()
            await asyncio.wait_for(waiting, 1.0)
            assert asyncio.all_tasks() == before

    asyncio.run(scenario())


async def _swallow(link: AgentLink) -> None:
    with pytest.raises(NodeError):
        await link.connect(30.0)
