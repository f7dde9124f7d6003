"""Whoever listens on a network is talked to by anybody: noise, idle connections and half handshakes disturb nobody.

At the three doors that there are: an agent's, a controller's for those who are invited, and that of an agent which
waits to be found.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq

from tests.cluster.test_joining import place
from tests.cluster.test_meetings import Machine, desk, waits
from tests.worker_agent.agent_process import Client, running_agent
from worker_agent.process import settle
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import controller_socket
from worker_agent.wire.messages import Health, HealthReport

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

IDLE = 1000
NOISY = 200
STRANGERS = 20
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
"""ZMTP 3.1, as a client of CURVE begins."""
HELLO = b"\x04\xc8\x05HELLO\x01\x00"
"""How CURVE's first command begins."""


def noise(chance: random.Random) -> bytes:
    """What comes over a raw connection: nothing of ours, half of ours, nearly ours."""
    junk = chance.randbytes(chance.randrange(1, 4000))
    return chance.choice([
        b"", b"\xff", GREETING[: chance.randrange(len(GREETING))], GREETING, GREETING + HELLO + chance.randbytes(192),
        GREETING + junk, junk, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + junk,
        GREETING + b"\x06" + (2**62).to_bytes(8, "big") + junk,
    ])  # fmt: skip


@contextmanager
def besieged(port: int, key: str) -> Iterator[None]:
    """While the block runs: idle connections, half handshakes, noise, strangers with keys who send what they like."""
    settle()  # allows as many open files as this takes
    chance, ending = random.Random(7), threading.Event()
    target = ("127.0.0.1", port)
    with ExitStack() as stack:
        for number in range(IDLE):
            loiterer = stack.enter_context(socket.create_connection(target, timeout=30))
            loiterer.sendall(b"" if number % 2 else GREETING)

        def make_noise() -> None:
            for _ in range(NOISY):
                if ending.is_set():
                    return
                try:
                    with socket.create_connection(target, timeout=5) as raw:
                        raw.sendall(noise(chance))
                except OSError:
                    pass
                time.sleep(0.01)

        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        strangers = [controller_socket(context, KeyPair.make(), key, b"", "control") for _ in range(STRANGERS)]
        for stranger in strangers:
            stranger.connect(f"tcp://127.0.0.1:{port}")
            for _ in range(5):
                frames = [chance.randbytes(chance.randrange(300)) for _ in range(chance.randrange(1, 12))]
                stranger.send_multipart(frames, zmq.NOBLOCK)
        thread = threading.Thread(target=make_noise)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()
            context.destroy(linger=0)


def test_an_agent_serves_its_controller(tmp_path: Path) -> None:
    keys = KeyPair.make()
    with running_agent(tmp_path / "home", f"--trust={keys.public}") as agent:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with Client(context, agent, keys) as before, besieged(agent.endpoint.port, agent.public_key):
            before.hello()
            for _ in range(20):
                assert isinstance(before.ask(lambda call: Health(call=call)), HealthReport)
                time.sleep(0.2)
            with Client(context, agent, keys) as newcomer:
                newcomer.hello()
        context.term()
        assert "unknown key" in agent.log
        assert agent.process.poll() is None


def test_who_is_invited_joins(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as p:
            command = p.listener.invite()
            port = int(command.invitation.address.rpartition(":")[2])
            siege = besieged(port, command.invitation.public_key)
            await asyncio.to_thread(siege.__enter__)
            try:
                assert (await p.join(command)).address == p.agent.address
            finally:
                await asyncio.to_thread(siege.__exit__, None, None, None)

    asyncio.run(scenario())


def test_one_that_waits_is_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine("attic")

    async def scenario() -> None:
        async with desk(tmp_path) as d:
            with waits(machine, monkeypatch):
                siege = besieged(machine.port, machine.keys.public)
                await asyncio.to_thread(siege.__enter__)
                try:
                    await d.meetings.begin(machine.address, machine.keys.public)
                    assert machine.code and machine.found is None
                finally:
                    await asyncio.to_thread(siege.__exit__, None, None, None)

    asyncio.run(scenario())
