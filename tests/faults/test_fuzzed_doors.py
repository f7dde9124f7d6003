"""The three doors that listen are sent what nobody should send: before the handshake, during it, and behind it.

At an agent's, a controller's for those who are invited, and that of an agent which waits to be found. Afterwards each
does what it is there for, has kept nothing of it in memory, and has said in its log whom it refused, in few lines.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import zmq

from tests.cluster.test_joining import place
from tests.cluster.test_meetings import Machine, desk, waits
from tests.faults.mangling import Mangler, raw, send_raw
from tests.fuzz.made_up import MadeUp
from tests.waiting import wait_until
from tests.worker_agent.agent_process import AgentProcess, Client, running_agent
from worker_agent.wire.complaints import MOST_REASONS
from worker_agent.wire.errors import WireError
from worker_agent.wire.keys import KeyPair, key_fingerprint
from worker_agent.wire.links import controller_socket
from worker_agent.wire.messages import (
    ControlMessage,
    Drain,
    Fetch,
    Health,
    HealthReport,
    Load,
    ProbeLink,
    Reveal,
    Shutdown,
    decode,
    encode,
)

AT_ONCE = 20
"""Connections of strangers that are open at the same time."""
MOST_GROWTH = 48 * 2**20
"""Bytes of memory that a process may hold more than before: far less than were sent in the long form."""
LONGEST_PAYLOAD = 2000


class Force(NamedTuple):
    """How much is sent."""

    raw: int
    """Connections with bytes that are no handshake, or half of one."""
    handshakes: int
    """Of real clients: as many damaged on their way, with unknown keys, and for another server's key."""
    messages: int
    """By one who is trusted."""


WARM = Force(raw=10, handshakes=3, messages=30)
"""Before memory is looked at: what is needed once for all of this is taken then."""
SHORT = Force(raw=60, handshakes=20, messages=300)
LONG = Force(raw=10_000, handshakes=500, messages=60_000)
FORCES = [
    pytest.param(SHORT, id="short"),
    pytest.param(LONG, id="long", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
]


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("SHARDBOARD_SEED") or secrets.randbelow(10**6))
    print(f"SHARDBOARD_SEED={seed}")
    return random.Random(seed)


@dataclass
class Door:
    """Where it is, and who is let in."""

    port: int
    key: str
    trusted: KeyPair
    obeyed: tuple[type[Any], ...]
    """Messages that would be done as they say: they end it, or have it connect to whatever address they name."""

    def strangers(self, force: Force, chance: random.Random) -> None:
        """All that comes from who has no key, or whose handshake is damaged."""
        for _ in range(force.raw):
            send_raw(self.port, raw(chance))
        other = KeyPair.make().public
        with Mangler(self.port, chance) as mangler:
            for first in range(0, force.handshakes, AT_ONCE):
                count, before = min(AT_ONCE, force.handshakes - first), mangler.changed
                with _knocking([(mangler.port, self.key, self.trusted)] * count):
                    _patiently(lambda: mangler.changed >= before + 0.8 * count)  # noqa: B023 - it is asked at once
                with _knocking([(self.port, self.key, KeyPair.make()) for _ in range(count)]):
                    time.sleep(0.1)
                with _knocking([(self.port, other, self.trusted)] * count):
                    time.sleep(0.05)
            assert mangler.changed >= force.handshakes // 2

    def messages(self, force: Force, chance: random.Random) -> int:
        """What one sends who is trusted, after a good handshake; how many of them were no messages."""
        made, wrong = MadeUp(chance), 0
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = controller_socket(context, self.trusted, self.key, b"", "control")
        socket.connect(f"tcp://127.0.0.1:{self.port}")
        before = encode(made.message())
        try:
            for _ in range(force.messages):
                frames, before = self._message(made, before), encode(made.message())
                kind = _kind(frames[0])
                if kind not in self.obeyed:
                    wrong += kind is None
                    socket.send_multipart(frames)
                while socket.poll(0):
                    socket.recv_multipart()
            _answered(socket)
        finally:
            context.destroy(linger=0)
        return wrong

    def _message(self, made: MadeUp, before: bytes) -> list[bytes]:
        chance = made.chance
        message, lengths = made.fitting(made.message())
        payload = [bytes(min(length, LONGEST_PAYLOAD)) for length in lengths]
        if isinstance(message, Load):
            payload = [chance.choice((b"{}", b'{"model_type": "llama"}', b"\xff")), made.parts()]
        match chance.randrange(4):
            case 0:
                return [chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(1, 14))]
            case 1:
                return [encode(message), *payload]
            case 2:
                return [made.bent_envelope(encode(message), before)[:LONGEST_PAYLOAD], *payload]
        return [encode(message)[:LONGEST_PAYLOAD], *(made.bent(frame)[:LONGEST_PAYLOAD] for frame in payload), b"x"]


def _kind(envelope: bytes) -> type | None:
    try:
        return type(decode(envelope))
    except WireError:
        return None


@contextmanager
def _knocking(clients: list[tuple[int, str, KeyPair]]) -> Iterator[None]:
    """Connections that each of them makes, and over which it says something."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        sockets = [controller_socket(context, keys, key, b"", "control") for _, key, keys in clients]
        for socket, (port, _, _) in zip(sockets, clients, strict=True):
            socket.connect(f"tcp://127.0.0.1:{port}")
            socket.send(encode(Health(call=1)))
        yield
    finally:
        context.destroy(linger=0)


def _patiently(condition: Callable[[], bool], seconds: float = 3.0) -> None:
    """Wait for it, and no longer than that: not every handshake is so long that something in it was changed."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def _answered(socket: zmq.Socket[bytes]) -> ControlMessage:
    """The answer to a question that comes behind all that was sent."""
    socket.send(encode(Health(call=4_000_000_000)))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if socket.poll(1000):
            answer = decode(socket.recv_multipart()[0])
            if getattr(answer, "call", 0) == 4_000_000_000:
                assert not isinstance(answer, Load)
                return answer  # type: ignore[return-value]  # it has a call
    raise AssertionError("the last question was not answered")


def own_memory() -> int:
    gc.collect()
    memory: int = psutil.Process().memory_info().rss
    return memory


@contextmanager
def read_along(agent: AgentProcess) -> Iterator[None]:
    """What it writes to stderr is read as it comes, as a terminal does: a pipe that is full would hold it up."""
    said, agent.process.stderr = agent.process.stderr, None
    assert said is not None
    thread = threading.Thread(target=said.read, name="terminal")
    thread.start()
    try:
        yield
    finally:
        agent.stop()
        thread.join(10)
        said.close()


@pytest.mark.parametrize("force", FORCES)
def test_an_agent(tmp_path: Path, force: Force, chance: random.Random) -> None:
    keys = KeyPair.make()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with running_agent(tmp_path / "home", f"--trust={keys.public}", "--memory", "1GB") as agent, ExitStack() as stack:
        stack.callback(context.term)
        stack.enter_context(read_along(agent))
        door = Door(agent.endpoint.port, agent.public_key, keys, (Shutdown, ProbeLink, Fetch))
        standing = stack.enter_context(Client(context, agent, keys))
        standing.hello()

        def health() -> HealthReport:
            report = standing.ask(lambda call: Health(call=call))
            assert isinstance(report, HealthReport)
            return report

        door.strangers(WARM, chance)
        door.messages(WARM, chance)
        lines, before = agent.log.count("\n"), health()
        began = time.monotonic()
        door.strangers(force, chance)
        assert "unknown key" in agent.log
        spans = 1 + (time.monotonic() - began) / 10
        assert agent.log.count("\n") - lines <= MOST_REASONS * spans, "strangers fill no log"
        wrong = door.messages(force, chance)
        after = health()
        assert after.dropped - before.dropped >= wrong > force.messages / 8
        wait_until(lambda: health().process_memory - before.process_memory < MOST_GROWTH, 20)
        faults = [line for line in agent.log.splitlines() if "Traceback" in line]
        assert not faults, "nothing that was sent is a fault of the agent's"
        standing.ask(lambda call: Drain(call=call, draining=False))
        with Client(context, agent, keys) as newcomer:
            assert newcomer.hello().agent == key_fingerprint(agent.public_key)


@pytest.mark.parametrize("force", FORCES)
def test_where_agents_join(
    tmp_path: Path, force: Force, chance: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as p:
            command = p.listener.invite()
            port = int(command.invitation.address.rpartition(":")[2])
            door = Door(port, command.invitation.public_key, KeyPair.make(), ())
            await withstood(door, force, chance, caplog)
            assert (await p.join(command)).address == p.agent.address

    asyncio.run(scenario())


@pytest.mark.parametrize("force", FORCES)
def test_an_agent_that_waits(
    tmp_path: Path,
    force: Force,
    chance: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine("attic")

    async def scenario() -> None:
        async with desk(tmp_path) as d:
            with waits(machine, monkeypatch):
                # By the same key: whoever else has begun a meeting would have to be waited for. It never shows a code.
                door = Door(machine.port, machine.keys.public, d.identity.keys, (Reveal,))
                await withstood(door, force, chance, caplog)
                await d.meetings.begin(machine.address, machine.keys.public)
                assert machine.code and machine.found is None

    asyncio.run(scenario())


async def withstood(door: Door, force: Force, chance: random.Random, caplog: pytest.LogCaptureFixture) -> None:
    """A door of this process is attacked; the process has neither grown nor filled its log."""
    await asyncio.to_thread(door.strangers, WARM, chance)
    await asyncio.to_thread(door.messages, WARM, chance)
    before, began = own_memory(), time.monotonic()
    await asyncio.to_thread(door.strangers, force, chance)
    await asyncio.to_thread(door.messages, force, chance)
    assert_few_complaints(caplog, time.monotonic() - began)
    caplog.clear()
    assert own_memory() - before < MOST_GROWTH


def assert_few_complaints(caplog: pytest.LogCaptureFixture, seconds: float) -> None:
    assert not [record for record in caplog.records if record.exc_info], "nothing that was sent is a fault of ours"
    assert any("sent what is no message" in message for message in caplog.messages)
    assert len(caplog.messages) <= MOST_REASONS * (1 + seconds / 10)
