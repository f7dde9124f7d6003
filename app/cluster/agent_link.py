"""The controller's link to one agent: greeting, calls and their answers, what the ring sends, restarts.

Two connections, so that a weight transfer never delays a cancel or a health beat. The sockets themselves
are `connection.py`'s work.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import msgspec
import zmq.asyncio

from app.cluster.calls import (
    ANSWERS,
    CALL_TIMEOUT,
    CONNECT_TIMEOUT,
    HELLO_TIMEOUT,
    LOAD_SILENCE,
    LOG_TIMEOUT,
    Answer,
    Heavy,
    PendingCall,
    PlainCall,
    discard,
)
from app.cluster.connection import Connection
from app.cluster.trouble import Trouble, failed_error, node_error
from app.errors import NodeError
from worker_agent.wire.errors import VersionMismatch, WireError
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import LinkKind
from worker_agent.wire.messages import (
    MAX_LOG_BYTES,
    OLDEST_WIRE_VERSION,
    WIRE_VERSION,
    Buffer,
    CatchUp,
    CaughtUp,
    Chunk,
    ChunkAck,
    Constrain,
    Done,
    Failed,
    Halt,
    Halted,
    Have,
    Health,
    HealthReport,
    Hello,
    Load,
    Loaded,
    LoadProgress,
    LogText,
    Message,
    Offer,
    Part,
    Probed,
    ProbeLink,
    ReadLog,
    StageFault,
    Tokens,
    Welcome,
    check_payload,
    decode,
    encode,
    encode_parts,
)
from worker_agent.wire.messages.fields import Call

Page = TypeVar("Page", bound=Call)

_log = logging.getLogger(__name__)

RingMessage = Tokens | StageFault


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The agent has answered Hello. What it sent while the link was cut is lost.

    `restarted` tells that it is another process than last time, with no memory of its stages.
    """

    welcome: Welcome
    restarted: bool


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection broke (`lost`), or it cannot be made for another reason than last reported."""

    trouble: Trouble


LinkChange = LinkUp | LinkDown


class AgentLink:
    """Talks to the agent at `address` that has `server_key`; reconnects by itself until `close`.

    All methods belong to the loop's thread. Callbacks run there too and must not block.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        address: str,
        server_key: str,
        keys: KeyPair,
        *,
        boot: str,
        controller: str = "controller",
        node: str = "",
    ) -> None:
        self.address = address
        self.server_key = server_key
        self.node = node
        """What errors call it, to be told from all others."""
        self.hostname = ""
        """What the registry calls it, once it is there."""
        self.welcome: Welcome | None = None
        """The last one that came; kept while the link is down."""
        self._context = context
        self._keys = keys
        self._boot = boot
        self._controller = controller
        self._control: _Channel | None = None
        self._weights: _Channel | None = None
        self._ids = itertools.count(1)
        self._pending: dict[int, PendingCall] = {}
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._askers: set[asyncio.Future[Welcome]] = set()
        self._trouble = Trouble("lost")
        self._on_ring: list[Callable[[RingMessage], None]] = []
        self._on_change: list[Callable[[LinkChange], None]] = []
        self._greetings: set[asyncio.Task[None]] = set()
        self._closed = False
        self.sending_weights = asyncio.Lock()
        """Held by a transfer: the window of unanswered chunks counts per connection."""

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    @property
    def trouble(self) -> Trouble | None:
        """Why the link is down; None while it is up."""
        return None if self.is_up else self._trouble

    def error(self) -> NodeError:
        """The trouble as an error for the user."""
        return node_error(self._trouble, self.node, self.address)

    # --- life ---

    def open(self) -> None:
        """Begin to connect, without waiting for it."""
        if self._control is None and not self._closed:
            self._control = _Channel(self, "control")

    async def connect(self, seconds: float = CONNECT_TIMEOUT) -> Welcome:
        """Connect and greet. Raises NodeError at the first reason why it cannot be; the link goes on trying."""
        if self._closed:
            raise self.error()
        if self.is_up and self.welcome is not None:
            return self.welcome
        if self._control is None:
            self.open()
        else:
            self.dial()
        asker: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        self._askers.add(asker)
        try:
            async with asyncio.timeout(seconds):
                return await asker
        except TimeoutError:
            raise node_error(Trouble("timeout"), self.node, self.address) from None
        finally:
            self._askers.discard(asker)
            discard(asker)

    def dial(self) -> None:
        """Try again now, without waiting for the next attempt."""
        if self._control is None or self.is_up:
            return
        if not self._control.connection.up:
            self._control.connection.dial()
        elif not self._greetings:
            self.connection_up(self._control.connection)

    async def wait_up(self, seconds: float) -> bool:
        """Wait until the link is up, through any trouble. Returns whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._up.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Close both connections; calls under way fail, nothing stays pending."""
        if self._closed:
            return
        self._closed = True
        self._set_down(Trouble("closed"), notify=False)
        for task in self._greetings:
            task.cancel()
        await asyncio.gather(*self._greetings, return_exceptions=True)
        for channel in (self._control, self._weights):
            if channel is not None:
                channel.greeted.set()  # who waits for it looks at `_closed`
                self._fail_calls(channel, self._trouble)
                await channel.connection.close()

    # --- who is told ---

    def on_ring(self, callback: Callable[[RingMessage], None]) -> Callable[[], None]:
        """Be told of each Tokens and StageFault. Returns how to stop it."""
        self._on_ring.append(callback)
        return lambda: self._on_ring.remove(callback)

    def on_change(self, callback: Callable[[LinkChange], None]) -> Callable[[], None]:
        """Be told when the link goes up or down. Returns how to stop it."""
        self._on_change.append(callback)
        return lambda: self._on_change.remove(callback)

    # --- calls ---

    @overload
    async def call(self, message: Hello, payload: Sequence[Buffer] = (), *, seconds: float = ...) -> Welcome: ...
    @overload
    async def call(self, message: Health, payload: Sequence[Buffer] = (), *, seconds: float = ...) -> HealthReport: ...
    @overload
    async def call(self, message: Offer, payload: Sequence[Buffer] = (), *, seconds: float = ...) -> Have: ...
    @overload
    async def call(self, message: Chunk, payload: Sequence[Buffer] = (), *, seconds: float = ...) -> ChunkAck: ...
    @overload
    async def call(self, message: Halt, payload: Sequence[Buffer] = (), *, seconds: float = ...) -> Halted: ...
    @overload
    async def call(self, message: CatchUp, payload: Sequence[Buffer] = (), *, seconds: float = ...) -> CaughtUp: ...
    @overload
    async def call(self, message: ProbeLink, payload: Sequence[Buffer] = (), *, seconds: float = ...) -> Probed: ...
    @overload
    async def call(self, message: PlainCall, payload: Sequence[Buffer] = (), *, seconds: float = ...) -> Done: ...
    async def call(
        self, message: Call, payload: Sequence[Buffer] = (), *, seconds: float = CALL_TIMEOUT
    ) -> Welcome | HealthReport | Have | ChunkAck | CaughtUp | Halted | Probed | Done:
        """Send a message and wait for its answer; the link fills in the call id.

        Raises:
            NodeError: the link is down, breaks or is closed meanwhile (`lost`, or what keeps it down), no
                answer came in time (`timeout`), or the agent answered Failed (its kind).
        """
        if not self.is_up:
            raise self.error()
        # A tokenizer is some tens of megabytes: it, too, goes where it holds up no beat.
        heavy = isinstance(message, Heavy) or (isinstance(message, Constrain) and payload)
        channel = await self._weights_channel(seconds) if heavy else self._control
        assert channel is not None
        answer = await self._ask(channel, message, payload, seconds)
        expected = ANSWERS.get(type(message), Done)
        if not isinstance(answer, expected):
            raise self._out_of_place(message, answer)
        return answer  # type: ignore[return-value]  # `ANSWERS` holds what the overloads say

    async def read(self, message: Call, kind: type[Page], *, seconds: float) -> tuple[Page, Sequence[bytes]]:
        """Ask for something that comes with payload frames. Raises NodeError as `call` does."""
        channel = await self._weights_channel(seconds)
        answer, payload = await self._ask_frames(channel, message, (), seconds)
        if not isinstance(answer, kind):
            raise self._out_of_place(message, answer)
        return answer, payload

    async def load(
        self,
        message: Load,
        config: bytes,
        parts: Sequence[Part],
        on_progress: Callable[[int, int], None] | None = None,
        *,
        silence: float = LOAD_SILENCE,
    ) -> Loaded:
        """Have a stage built from parts that the agent holds. `on_progress(done_bytes, total_bytes)`.

        A caller that is cancelled should send Unload: the agent goes on by itself.

        Raises NodeError as `call` does.
        """
        if not self.is_up or self._control is None:
            raise self.error()
        payload = (config, encode_parts(parts))
        answer = await self._ask(self._control, message, payload, silence, on_progress or (lambda done, total: None))
        if not isinstance(answer, Loaded):
            raise self._out_of_place(message, answer)
        return answer

    async def read_log(self, max_bytes: int) -> str:
        """The last whole lines of the agent's log, `max_bytes` at most. Raises NodeError as `call` does."""
        if not self.is_up or self._control is None:
            raise self.error()
        message = ReadLog(call=0, max_bytes=max(1, min(max_bytes, MAX_LOG_BYTES)))
        answer, payload = await self._ask_frames(self._control, message, (), LOG_TIMEOUT)
        if not isinstance(answer, LogText):
            raise self._out_of_place(message, answer)
        return payload[0].decode(errors="replace")

    async def _ask(
        self,
        channel: _Channel,
        message: Call,
        payload: Sequence[Buffer],
        seconds: float,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Message:
        return (await self._ask_frames(channel, message, payload, seconds, on_progress))[0]

    async def _ask_frames(
        self,
        channel: _Channel,
        message: Call,
        payload: Sequence[Buffer],
        seconds: float,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Answer:
        number = next(self._ids) % 2**32
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        envelope = encode(msgspec.structs.replace(message, call=number))  # type: ignore[arg-type]  # every Call is a Message
        try:
            async with asyncio.timeout(seconds) as deadline:
                self._pending[number] = PendingCall(channel, answer, deadline, seconds, on_progress)
                sending = channel.connection.send((envelope, *payload))
                try:
                    await asyncio.wait({sending, answer}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    discard(sending)
                return await answer
        except TimeoutError:
            raise node_error(Trouble("timeout"), self.node, self.address) from None
        finally:
            self._pending.pop(number, None)
            discard(answer)

    async def _weights_channel(self, seconds: float) -> _Channel:
        if self._weights is None:
            self._weights = _Channel(self, "weights")
        channel = self._weights
        greeted = asyncio.ensure_future(channel.greeted.wait())
        down = asyncio.ensure_future(self._down.wait())
        try:
            await asyncio.wait({greeted, down}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            greeted.cancel()
            down.cancel()
        if self._closed or not self.is_up:  # an agent that is gone does not greet
            raise self.error()
        if not channel.greeted.is_set():
            raise node_error(Trouble("timeout"), self.node, self.address)
        return channel

    def _out_of_place(self, message: Call, answer: Message) -> NodeError:
        return NodeError(
            f"{self.node or self.address} answered {type(message).__name__} with {type(answer).__name__}.",
            "Install the same version of Shardboard on both machines.",
            kind="internal",
            node=self.node,
        )

    # --- what the connections report ---

    def connection_up(self, connection: Connection) -> None:
        channel = self._channel_of(connection)
        greeting = asyncio.create_task(self._greet(channel))
        self._greetings.add(greeting)
        greeting.add_done_callback(self._greetings.discard)

    def connection_down(self, connection: Connection) -> None:
        channel = self._channel_of(connection)
        channel.greeted.clear()
        self._fail_calls(channel, Trouble("lost"))
        if channel is self._control:
            self._set_down(Trouble("lost"))

    def connection_trouble(self, connection: Connection, trouble: Trouble) -> None:
        if self._channel_of(connection) is self._control:
            self._set_down(trouble)

    def received(self, connection: Connection, frames: Sequence[bytes]) -> None:
        channel = self._channel_of(connection)
        try:
            message = decode(frames[0])
        except VersionMismatch as error:
            self.connection_trouble(connection, Trouble("version", str(error)))
            self._fail_calls(channel, Trouble("version", str(error)))
            return
        except WireError as error:
            _log.warning("%s sent what cannot be read: %s", self.node or self.address, error)
            return
        if isinstance(message, Tokens | StageFault):
            for callback in tuple(self._on_ring):
                callback(message)
        elif isinstance(message, Call):
            try:
                check_payload(message, frames[1:])
            except WireError as error:
                _log.warning("%s sent what cannot be read: %s", self.node or self.address, error)
                return
            self._on_answer(message, frames[1:])

    def _on_answer(self, message: Call, payload: Sequence[bytes]) -> None:
        pending = self._pending.get(message.call)
        if pending is None or pending.answer.done():
            return  # too late: its caller has given up
        if isinstance(message, LoadProgress) and pending.on_progress is not None:
            pending.deadline.reschedule(asyncio.get_running_loop().time() + pending.seconds)
            pending.on_progress(message.done_bytes, message.total_bytes)
        elif isinstance(message, Failed):
            pending.answer.set_exception(failed_error(message, self.node))
        else:
            pending.answer.set_result((message, payload))  # type: ignore[arg-type]  # what `decode` gives is a Message

    async def _greet(self, channel: _Channel) -> None:
        """Say Hello on a fresh connection: the agent learns which connection is this controller's."""
        hello = Hello(call=0, oldest=OLDEST_WIRE_VERSION, newest=WIRE_VERSION, boot=self._boot, name=self._controller)
        while channel.connection.up:
            try:
                answer = await self._ask(channel, hello, (), HELLO_TIMEOUT)
            except NodeError as error:
                if channel is self._control and error.kind in ("version", "not_allowed"):
                    self._set_down(Trouble(error.kind, error.message))  # type: ignore[arg-type]  # two of its kinds
                    return
                if error.kind != "timeout":
                    return
                if channel is self._control:
                    self._set_down(Trouble("timeout", "it is connected and does not answer"))
                continue
            if not isinstance(answer, Welcome):
                raise self._out_of_place(hello, answer)
            if not OLDEST_WIRE_VERSION <= answer.version <= WIRE_VERSION:
                self._set_down(Trouble("version", f"it speaks version {answer.version}"))
                return
            channel.greeted.set()
            if channel is self._control:
                self._set_up(answer)
            return

    def _set_up(self, welcome: Welcome) -> None:
        restarted = self.welcome is not None and self.welcome.boot != welcome.boot
        self.welcome = welcome
        self.node = self.node or welcome.hostname
        self._up.set()
        self._down.clear()
        for asker in self._askers:
            if not asker.done():
                asker.set_result(welcome)
        self._tell(LinkUp(welcome, restarted))

    def _set_down(self, trouble: Trouble, *, notify: bool = True) -> None:
        known = not self.is_up and trouble == self._trouble
        self._up.clear()
        self._down.set()
        self._trouble = trouble
        for asker in self._askers:
            if not asker.done() and trouble.kind != "lost":
                asker.set_exception(self.error())
        if notify and not known:
            self._tell(LinkDown(trouble))

    def _tell(self, change: LinkChange) -> None:
        for callback in tuple(self._on_change):
            callback(change)

    def _fail_calls(self, channel: _Channel, trouble: Trouble) -> None:
        for pending in tuple(self._pending.values()):
            if pending.channel is channel and not pending.answer.done():
                pending.answer.set_exception(node_error(trouble, self.node, self.address))

    def _channel_of(self, connection: Connection) -> _Channel:
        channel = (
            self._weights if self._weights is not None and self._weights.connection is connection else self._control
        )
        assert channel is not None
        return channel

    def make_connection(self, kind: LinkKind) -> Connection:
        return Connection(self._context, self.address, self.server_key, self._keys, kind, self)


class _Channel:
    """One of the link's two connections and whether the agent has answered Hello on it."""

    def __init__(self, link: AgentLink, kind: LinkKind) -> None:
        self.greeted = asyncio.Event()
        self.connection = link.make_connection(kind)
