"""One DEALER to an agent and what its socket monitor tells of it.

ZeroMQ reconnects silently and for ever, and gives up without a word where the other side's key is refused.
This turns its monitor events into up, down and a reason, and dials again where ZeroMQ would not.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from app.cluster.trouble import Trouble, probe
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import GIVEN_UP_SECONDS, MONITORED, LinkKind, controller_socket
from worker_agent.wire.messages import Buffer

PROBE_SECONDS = 5.0
REDIAL_SECONDS = 3.0
"""How long to wait before dialling again where ZeroMQ has given up on a handshake."""

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Who is told about a connection. Called on the loop; must not block."""

    def connection_up(self, connection: Connection) -> None: ...
    def connection_down(self, connection: Connection) -> None: ...
    def connection_trouble(self, connection: Connection, trouble: Trouble) -> None: ...
    def received(self, connection: Connection, frames: Sequence[bytes]) -> None: ...


class Connection:
    """A CURVE DEALER that stays connected to one address until it is closed.

    Attributes:
        up: whether the handshake has succeeded and the connection stands.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        address: str,
        server_key: str,
        keys: KeyPair,
        kind: LinkKind,
        observer: Observer,
    ) -> None:
        self.address = address
        self.up = False
        self._observer = observer
        identity = secrets.token_bytes(16).replace(b"\0", b"0") + kind.encode()
        self._socket = controller_socket(context, keys, server_key, identity, kind)
        # A message that waits for a connection would reach another epoch, perhaps another process: only send when up.
        self._socket.immediate = 1
        self._monitor = self._socket.get_monitor_socket(MONITORED)
        self._tasks = {asyncio.create_task(self._watch()), asyncio.create_task(self._receive())}
        self._redial: asyncio.TimerHandle | None = None
        self._probing: asyncio.Task[None] | None = None
        self._reached_tcp = False
        self._explained = False
        self._broken_handshakes = 0
        self._closed = False
        self._socket.connect(address)

    def send(self, frames: Sequence[Buffer]) -> asyncio.Future[Any]:
        """Queue a message; done when the socket has taken it."""
        return asyncio.ensure_future(self._socket.send_multipart(frames, copy=True))

    def dial(self) -> None:
        """Connect afresh now, without waiting for the next attempt."""
        self._stop_redial()
        if self._closed or self.up:
            return
        with suppress(zmq.ZMQError):  # ZeroMQ has dropped the endpoint by itself
            self._socket.disconnect(self.address)
        self._socket.connect(self.address)

    async def close(self) -> None:
        """Close the socket; queued messages are dropped. Nothing is left pending."""
        if self._closed:
            return
        self._closed = True
        self._stop_redial()
        tasks = [*self._tasks, *([self._probing] if self._probing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.up = False
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    # --- what comes in ---

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                self._observer.received(self, frames)
            except Exception:
                _log.exception("a message from %s could not be handled", self.address)

    async def _watch(self) -> None:
        while True:
            event = await recv_monitor_message(self._monitor)
            try:
                self._on_event(zmq.Event(event["event"]), int(event["value"]))
            except Exception:
                _log.exception("an event of the connection to %s could not be handled", self.address)

    def _on_event(self, event: zmq.Event, value: int) -> None:
        match event:
            case zmq.Event.CONNECT_DELAYED:
                self._stop_redial()
            case zmq.Event.CONNECTED:
                self._stop_redial()
                self._reached_tcp = True
                self._explained = False
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                self._broken_handshakes = 0
                self.up = True
                self._observer.connection_up(self)
            case zmq.Event.HANDSHAKE_FAILED_AUTH:
                self._explain(Trouble("not_allowed"))
            case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                self._on_broken_handshake(value)
            case zmq.Event.DISCONNECTED:
                self._on_disconnected()
            case zmq.Event.CLOSED | zmq.Event.CONNECT_RETRIED if not self._reached_tcp:
                self._diagnose()

    def _on_broken_handshake(self, value: int) -> None:
        """The other side hung up in mid-handshake, or HANDSHAKE_IVL ran out. An agent hangs up at once when
        the hello was not encrypted for its key; one that is being killed does so too, but only once."""
        if value == errno.EAGAIN:
            self._explain(Trouble("timeout", "it accepts the connection and then says nothing"))
            return
        self._broken_handshakes += 1
        self._explained = True
        if self._broken_handshakes >= 2:
            self._explain(Trouble("wrong_key"))

    def _on_disconnected(self) -> None:
        self._reached_tcp = False
        stood = self.up
        if self.up:
            self.up = False
            self._observer.connection_down(self)
        elif not self._explained:
            self._explain(Trouble("version", "what listens there answers in another protocol"))
        # After a refused key or a breach of the protocol ZeroMQ does not retry; where it does, this is called off.
        self._stop_redial()
        seconds = GIVEN_UP_SECONDS if stood else REDIAL_SECONDS
        self._redial = asyncio.get_running_loop().call_later(seconds, self.dial)

    def _explain(self, trouble: Trouble) -> None:
        self._explained = True
        self._observer.connection_trouble(self, trouble)

    def _diagnose(self) -> None:
        """TCP did not connect: ask the system why. At most one question at a time."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        trouble = await probe(self.address, PROBE_SECONDS)
        if trouble is not None and not self.up:
            self._observer.connection_trouble(self, trouble)

    def _stop_redial(self) -> None:
        if self._redial is not None:
            self._redial.cancel()
            self._redial = None
