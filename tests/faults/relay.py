"""A TCP relay that stands before an agent, and does to what passes whatever a network may do.

A node that is registered at the relay's address is reached through it by everybody: by the controller, and by the agent
of the stage before, which is told that address. So each can be cut off by itself, in one direction or both. Nothing of
the agents or of the protocol is changed, and no rights are needed: it works wherever Python does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import psutil

from worker_agent.wire.links import Endpoint

Party = Literal["controller", "agents"]
Way = Literal["there", "back"]
"""`there`: from whoever connected to the agent behind the relay."""

EVERYBODY: tuple[Party, ...] = ("controller", "agents")
BOTH: tuple[Way, ...] = ("there", "back")
CHUNK_BYTES = 65536
WITHOUT_FAREWELL = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: what is closed then is reset, and what was under way is lost."""

Result = TypeVar("Result")
Damage = Callable[[bytes], bytes]


def flipped(passing: bytes) -> bytes:
    """One bit in the midst of it is another."""
    middle = len(passing) // 2
    return passing[:middle] + bytes([passing[middle] ^ 1]) + passing[middle + 1 :]


def shortened(passing: bytes) -> bytes:
    """One byte in the midst of it is missing."""
    middle = len(passing) // 2
    return passing[:middle] + passing[middle + 1 :]


@dataclass(eq=False)
class _Line:
    """A connection that passes through."""

    party: Party
    near: asyncio.StreamWriter
    """To whoever connected."""
    far: asyncio.StreamWriter
    """To the agent."""

    def reset(self) -> None:
        for writer in (self.near, self.far):
            connected = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, WITHOUT_FAREWELL)
            writer.transport.abort()


@dataclass(eq=False)
class Relay:
    """One agent's relay. What is asked of it from a test's thread is done in the relays' own."""

    behind: Endpoint
    loop: asyncio.AbstractEventLoop
    port: int = 0
    resets: int = 0
    """Connections that were broken."""
    damaged: int = 0
    """Pieces of the stream that were changed."""
    _server: asyncio.Server | None = None
    _lines: set[_Line] = field(default_factory=set)
    _held: set[tuple[Party, Way]] = field(default_factory=set)
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _refused: set[Party] = field(default_factory=set)
    _delay: float = 0.0
    _damage: dict[tuple[Party, Way], Damage] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    # --- what a network may do ---

    @contextlib.contextmanager
    def cut(self, *parties: Party) -> Iterator[None]:
        """Connections of these are reset, and new ones as soon as they are made."""
        refused = parties or EVERYBODY
        self._do(lambda: self._refused.update(refused))
        self.reset(*refused)
        try:
            yield
        finally:
            self._do(lambda: self._refused.difference_update(refused))

    @contextlib.contextmanager
    def hold(self, parties: Collection[Party] = EVERYBODY, ways: Collection[Way] = BOTH) -> Iterator[None]:
        """Nothing passes, nobody is told, and in the end what was sent comes after all: as TCP does over a line that is
        dead for a while."""
        held = {(party, way) for party in parties for way in ways}
        self._do(lambda: self._held.update(held))
        try:
            yield
        finally:
            self._do(lambda: self._release(held))

    @contextlib.contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Each piece, of 64 KiB at most, comes so much later, one behind the other."""
        self._do(lambda: setattr(self, "_delay", seconds))
        try:
            yield
        finally:
            self._do(lambda: setattr(self, "_delay", 0.0))

    def reset(self, *parties: Party) -> None:
        """Break the connections that are there; what is under way on them is lost."""
        self._do(lambda: self._reset(parties or EVERYBODY))

    def damage(self, party: Party, way: Way, damage: Damage) -> None:
        """Change the next piece that passes."""
        self._do(lambda: self._damage.update({(party, way): damage}))

    # --- within the loop ---

    def _do(self, work: Callable[[], object]) -> None:
        async def on_loop() -> None:
            work()

        asyncio.run_coroutine_threadsafe(on_loop(), self.loop).result(10)

    def _reset(self, parties: Collection[Party]) -> None:
        for line in [each for each in self._lines if each.party in parties]:
            self.resets += 1
            line.reset()

    def _release(self, held: set[tuple[Party, Way]]) -> None:
        self._held -= held
        self._released.set()
        self._released = asyncio.Event()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self._reset(EVERYBODY)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        party = await asyncio.to_thread(_who, writer.get_extra_info("peername")[1])
        if party in self._refused:
            writer.transport.abort()
            return
        try:
            answers, far = await asyncio.open_connection(self.behind.host, self.behind.port, limit=CHUNK_BYTES)
        except OSError:  # the agent is not there: nor is the relay
            writer.transport.abort()
            return
        line = _Line(party, writer, far)
        self._lines.add(line)
        pumps = [
            asyncio.ensure_future(self._pump(line, "there", reader, far)),
            asyncio.ensure_future(self._pump(line, "back", answers, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._lines.discard(line)
            line.reset()

    async def _pump(self, line: _Line, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while passing := await reader.read(CHUNK_BYTES):
                if self._delay:
                    await asyncio.sleep(self._delay)
                while (line.party, way) in self._held:
                    await self._released.wait()
                if (damage := self._damage.pop((line.party, way), None)) is not None:
                    passing, self.damaged = damage(passing), self.damaged + 1
                writer.write(passing)
                await writer.drain()


def _who(port: int) -> Party:
    """Whose end of a connection has this port: the controller runs in this process, the agents do not."""
    own = psutil.Process(os.getpid()).net_connections("tcp")
    return "controller" if any(each.laddr.port == port and each.raddr for each in own) else "agents"


class Relays:
    """The relays of some agents, and the thread in which they run."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays")
        self._relays: list[Relay] = []

    def __enter__(self) -> Relays:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        for relay in self._relays:
            self._run(relay.close())
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def before(self, address: str) -> Relay:
        """A relay to the agent at this address."""
        relay = Relay(Endpoint.parse(address), self._loop)
        self._run(relay.open())
        self._relays.append(relay)
        return relay

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
