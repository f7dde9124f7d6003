"""The agent's outgoing connections: from each stage to the next one, and from the last one to the first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import zmq

from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import Endpoint, LinkEvent, LinkMonitor, peer_socket
from worker_agent.wire.messages import Buffer, Message, encode
from worker_agent.wire.outlet import Outlet, send_frames

log = logging.getLogger(__name__)

COMPLAINT_SECONDS = 1.0
"""How often it is said that another agent cannot be reached: for as long as that lasts, since only then it matters
whether sequences wait."""


@dataclass(frozen=True, slots=True)
class PeerName:
    """Which connection: a stage of a deployment, and where it sends to (`downstream` or `first`)."""

    deployment: str
    stage: int
    to: str

    def __str__(self) -> str:
        return f"{self.deployment}/{self.stage} to its {self.to} stage"


OnTrouble = Callable[[PeerName, str, str], None]
"""(connection, kind, sentence): the deployment cannot go on over this connection as it is."""


class Peers:
    """Makes, feeds and closes the DEALERs to other agents; only for the I/O thread.

    A connection that is lost with steps under way has lost them, and only a new Link (a new epoch) makes the
    deployment whole again: so each trouble is reported, and what is sent over a closed connection is dropped.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyPair, poller: zmq.Poller) -> None:
        self._context = context
        self._keys = keys
        self._poller = poller
        self._peers: dict[PeerName, _Peer] = {}

    def connect(self, name: PeerName, address: str, key: str) -> None:
        """Connect, in place of an earlier connection of this name. Raises AddressError."""
        endpoint = Endpoint.parse(address)
        self.close(name)
        peer = _Peer(self._context, self._keys, endpoint, key)
        self._peers[name] = peer
        self._poller.register(peer.socket, zmq.POLLIN)
        self._poller.register(peer.monitor.socket, zmq.POLLIN)

    def push(self, name: PeerName, message: Message, payload: Sequence[Buffer]) -> bool | None:
        """Send a message. None: there is no such connection; False: it has taken no more and was closed."""
        peer = self._peers.get(name)
        if peer is None:
            return None
        if peer.outlet.push([encode(message), *payload]):
            return True
        self.close(name)
        return False

    def serve(self, ready: dict[object, int], trouble: OnTrouble) -> None:
        """After each poll: send what waits, read what monitors and peers say."""
        for name, peer in list(self._peers.items()):
            if peer.monitor.was_given_up:
                log.info("connection of %s at %s: dialled again", name, peer.endpoint)
                peer.dial()
            if peer.outlet.is_waiting:
                peer.outlet.flush()
            if peer.monitor.socket in ready:
                for event in peer.monitor.read():
                    self._note(name, peer, event, trouble)
            if peer.socket in ready and not peer.socket.closed:
                # a peer has nothing to say to us: what it sends is read so that it does not pile up
                while peer.socket.poll(0):
                    peer.socket.recv_multipart()

    @property
    def is_waiting(self) -> bool:
        """Whether anything waits to be sent."""
        return any(peer.outlet.is_waiting for peer in self._peers.values())

    def close(self, name: PeerName) -> None:
        peer = self._peers.pop(name, None)
        if peer is not None:
            self._poller.unregister(peer.socket)
            self._poller.unregister(peer.monitor.socket)
            peer.close()

    def close_stage(self, deployment: str, stage: int) -> None:
        for name in [name for name in self._peers if (name.deployment, name.stage) == (deployment, stage)]:
            self.close(name)

    def close_all(self) -> None:
        for name in list(self._peers):
            self.close(name)

    def _note(self, name: PeerName, peer: _Peer, event: LinkEvent, trouble: OnTrouble) -> None:
        repeated = event is peer.last_event
        peer.last_event = event
        if not repeated:
            log.info("connection of %s at %s: %s", name, peer.endpoint, event.value)
        match event:
            case LinkEvent.DISCONNECTED:
                trouble(name, "link_lost", f"The connection to the agent at {peer.endpoint} was lost.")
            case LinkEvent.REFUSED | LinkEvent.NO_ANSWER if peer.may_complain(time.monotonic()):
                trouble(name, "link_lost", f"The agent at {peer.endpoint} cannot be reached ({event.value}).")
            case LinkEvent.NOT_TRUSTED:
                self.close(name)
                trouble(name, "not_allowed", f"The agent at {peer.endpoint} does not accept this agent's key.")
            # once may be an agent that restarts in mid-handshake
            case LinkEvent.WRONG_KEY if repeated and not peer.complained:
                peer.complained = True
                trouble(name, "wrong_key", f"The agent at {peer.endpoint} has another key than the one announced.")


class _Peer:
    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyPair, endpoint: Endpoint, server_key: str
    ) -> None:
        self.endpoint = endpoint
        self.socket = peer_socket(context, keys, server_key)
        self.monitor = LinkMonitor(self.socket)
        self.outlet = Outlet(lambda frames: send_frames(self.socket, frames))
        self.last_event: LinkEvent | None = None
        self.complained = False
        self._unreached_at = 0.0
        self.socket.connect(endpoint.address)

    def may_complain(self, now: float) -> bool:
        """Whether it is time to say again that the other agent cannot be reached."""
        due = now - self._unreached_at >= COMPLAINT_SECONDS
        if due:
            self._unreached_at = now
        return due

    def dial(self) -> None:
        """Connect afresh where libzmq does not: after what came was no CURVE, or was damaged on its way."""
        self.monitor.forget()
        with suppress(zmq.ZMQError):  # without this the address counts as connected already
            self.socket.disconnect(self.endpoint.address)
        self.socket.connect(self.endpoint.address)

    def close(self) -> None:
        self.monitor.close()
        # what still waits belongs to an epoch that is over
        self.socket.close(0)
