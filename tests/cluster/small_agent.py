"""A small real agent for the controller's side: a CURVE ROUTER with a ZAP handler that speaks the messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import blake3
import msgspec
import zmq.asyncio

from app.cluster.agent_link import AgentLink
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import Endpoint, agent_socket, bind
from worker_agent.wire.messages import (
    WIRE_VERSION,
    Chunk,
    ChunkAck,
    Done,
    Failed,
    Have,
    Health,
    HealthReport,
    Hello,
    Load,
    Loaded,
    LoadProgress,
    Numerics,
    Offer,
    Progress,
    StageInfo,
    Tokens,
    Unload,
    Welcome,
    decode,
    encode,
)
from worker_agent.wire.messages.fields import Call
from worker_agent.wire.zap import Doorkeeper

GIB = 2**30
IDLE = Progress(steps_done=0, busy_seconds=None, busy_tokens=0, step_p99=0.0)


@dataclass
class SmallAgent:
    """Keeps parts in memory, answers at once, and does what a test asks it to do wrong."""

    context: zmq.asyncio.Context
    keys: KeyPair = field(default_factory=KeyPair.make)
    boot: str = "boot1"
    hostname: str = "box"
    version: int = WIRE_VERSION
    wire_version: int = WIRE_VERSION
    allowed: Callable[[str], bool] = lambda key: True
    progress: Progress = IDLE
    stages: tuple[StageInfo, ...] = ()
    process_memory: int = 300_000_000
    memory_held: int = 300_000_000
    memory_used: int = 0
    loading: int = 0
    answers: dict[type[Call], Call] = field(default_factory=dict)
    """Answers given instead of the usual ones, by the type of message."""
    silent_on: set[type[Call]] = field(default_factory=set)
    contents: dict[str, bytearray] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    chunk_delay: float = 0.0
    got: list[Call] = field(default_factory=list)
    port: int = 0

    async def start(self) -> None:
        self._door = Doorkeeper(self.context, lambda key: self.allowed(key))
        self._door.open()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bind()

    def _bind(self) -> None:
        self._router = agent_socket(self.context, self.keys)
        self.port = bind(self._router, Endpoint("127.0.0.1", self.port)).port
        self._serving = asyncio.create_task(self._serve())

    async def stop_listening(self) -> None:
        """What a killed process looks like: the connection breaks and the port is closed."""
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        self._router.close(linger=0)

    def listen_again(self, boot: str | None = None) -> None:
        self.boot = boot or self.boot
        self._bind()

    async def stop(self) -> None:
        await self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._door.close()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    async def send_ring(self, message: Tokens) -> None:
        """To the connection that said Hello last."""
        await self._router.send_multipart([self._last_hello, encode(message)])

    async def _serve(self) -> None:
        while True:
            peer, envelope, *payload = await self._router.recv_multipart()
            message = decode(envelope)
            assert isinstance(message, Call)
            self.got.append(message)
            if isinstance(message, Hello):
                self._last_hello = peer
            if type(message) in self.silent_on:
                continue
            if isinstance(message, Chunk):
                await asyncio.sleep(self.chunk_delay)
            if isinstance(message, Load) and Load not in self.answers:
                await self._answer(peer, message, LoadProgress(call=0, done_bytes=1, total_bytes=2))
            await self._answer(peer, message, self.answers.get(type(message)) or self._usual(message, payload))

    async def _answer(self, peer: bytes, message: Call, answer: Call) -> None:
        envelope = encode(msgspec.structs.replace(answer, call=message.call))  # type: ignore[arg-type]  # every Call is one
        await self._router.send_multipart([peer, self.wire_version.to_bytes(2, "big") + envelope[2:]])

    def _usual(self, message: Call, payload: Sequence[bytes]) -> Call:
        match message:
            case Hello():
                return self._welcome()
            case Health():
                return self.report()
            case Offer():
                held = tuple(len(self.contents.get(digest, b"")) for digest in message.digests)
                return Have(call=0, held=held, disk_free=GIB)
            case Chunk():
                return self._take(message, payload[0])
            case Load():
                return Loaded(call=0, weight_bytes=10, kv_bytes=20, seconds=0.5, ways=())
            case Unload():
                self.stages = tuple(stage for stage in self.stages if stage.deployment != message.deployment)
        return Done(call=0)

    def _take(self, chunk: Chunk, content: bytes) -> Call:
        self.chunks.append(chunk)
        held = self.contents.setdefault(chunk.digest, bytearray())
        if chunk.offset != len(held):
            return Failed(call=0, kind="wire", message=f"a chunk at {chunk.offset}, {len(held)} bytes are here")
        held += content
        complete = len(held) == chunk.total
        if complete and blake3.blake3(bytes(held)).hexdigest() != chunk.digest:
            del self.contents[chunk.digest]
            return Failed(call=0, kind="damaged", message="The bytes of a part do not match its hash.")
        return ChunkAck(call=0, digest=chunk.digest, received=len(held), complete=complete)

    def _welcome(self) -> Welcome:
        return Welcome(
            call=0, version=self.version, boot=self.boot, agent=self.keys.agent_id, hostname=self.hostname,
            system="Linux", software="0", numerics=Numerics("cpu", "2", "5", 1, ("float32",)), cpu_name="cpu",
            cpu_count=1, memory_total=GIB, memory_budget=GIB, memory_base=self.process_memory, disk_free=GIB, gpus=(),
            stages=self.stages,
        )  # fmt: skip

    def report(self) -> HealthReport:
        return HealthReport(
            call=0, boot=self.boot, cpu_percent=1, process_cpu_percent=1, load_1m=0, memory_total=GIB,
            memory_available=GIB, process_memory=self.process_memory, memory_base=self.memory_held,
            memory_held=self.memory_held, memory_budget=GIB, memory_used=self.memory_used, disk_free=GIB, gpus=(),
            progress=self.progress, stages=self.stages, draining=False, loading=self.loading, dropped=0,
        )  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """A controller's side and a small agent, made inside the test's loop."""

    context: zmq.asyncio.Context
    keys: KeyPair
    agent: SmallAgent

    def link(self, server_key: str | None = None, address: str | None = None) -> AgentLink:
        return AgentLink(
            self.context, address or self.agent.address, server_key or self.agent.keys.public, self.keys, boot="me"
        )


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """The agent lives in a context of its own, as it does in a process of its own: ZAP belongs to a context."""
    ours, theirs = zmq.asyncio.Context(), zmq.asyncio.Context()
    agent = SmallAgent(theirs)
    await agent.start()
    try:
        yield Bench(ours, KeyPair.make(), agent)
    finally:
        await agent.stop()
        ours.destroy(linger=0)
        theirs.destroy(linger=0)
