"""ZeroMQ sockets with every option that the protocol asks for, and what their monitors tell.

The only place that creates a socket for the network; the controller's half uses it too. Works with plain
and with asyncio contexts.

Good to know:
- A client whose key the server does not trust gets `LinkEvent.NOT_TRUSTED`, and libzmq does **not** try
  again: close the socket and make a new one once the key has been announced.
- A client that has the wrong key of the server is dropped in mid-handshake and tries for ever:
  `LinkEvent.WRONG_KEY`. A server that restarts in that moment looks the same, so believe the second one.
- A client that is sent what is no CURVE, or what was damaged on its way, hangs up, and libzmq does **not** try again
  either: dial once more (`LinkMonitor.was_given_up`).
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket as stdlib_socket
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeVar

import psutil
import zmq
from zmq.utils.monitor import parse_monitor_message

from worker_agent.wire.errors import AgentError
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.messages import MAX_FRAME_BYTES

ZAP_DOMAIN = b"shardboard"
DEFAULT_PORT = 7600

CONTROL_HEARTBEAT_TIMEOUT_MS = 3000
"""How soon a control connection notices a dead link."""
BULK_HEARTBEAT_TIMEOUT_MS = 15000
"""The same where frames of up to 16 MiB travel.

libzmq's ping waits its turn behind the frame that is being sent, and only a whole frame counts as a sign of
life: with 3 s a 4 MiB chunk needs 11 Mbit/s, and a slower link would be cut and begun again for ever. Who
must know sooner is the controller, and its control connection does.
"""
LINGER_MS = 1000
SEND_TIMEOUT_MS = 5000
ANSWERS_HWM = 256
"""Small messages that may wait for one slow connection."""
BULK_HWM = 8
"""Frames of up to 16 MiB that may wait to be sent; senders hold back by the protocol's credits, this is the bound."""
RECEIVED_HWM = 100_000
"""Messages that have come and were not read yet: more than anybody sends who keeps to the protocol, whose credits bound
what is under way. Who floods a connection can still fill it.

Where it is full and the other side closes the connection, libzmq (4.3.5) ends the whole process as soon as a ping falls
due or one is found in what was read (`Assertion failed: !_io_error`). So an agent died, with eight messages as the
bound, whose process had been stopped for some seconds or whose machine had slept.
"""

GIVEN_UP_SECONDS = 0.5
"""libzmq begins to connect again a moment after a connection broke; when nothing is heard of it for so long, it will
not."""

MONITORED = zmq.EVENT_ALL & ~zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
"""The events that a monitor may be asked for.

libzmq (4.3.5) tells of a message that cannot be deciphered through this one, also long after the handshake, and loses
errno by telling it. It then takes the breach for a full queue: it reads no more from that connection, keeps it, and
ends the whole process (`Assertion failed: !_io_error`) if the other side closes it before a heartbeat runs out.
"""

_HOST = re.compile(r"(?=.{1,255}$)[A-Za-z0-9][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_-]{1,63})*\.?")
"""A name or an IPv4 address: to libzmq all else is an invalid argument, and the system's look-up fails in odd ways."""
_ZONE = re.compile(r"[A-Za-z0-9._-]+")
"""The same of a network interface behind an IPv6 address."""

LinkKind = Literal["control", "weights", "steps"]

SocketT = TypeVar("SocketT", bound=zmq.Socket[Any])


class AddressError(AgentError):
    """An address that is no address, cannot be resolved, or cannot be listened on."""

    kind = "address"


class PortInUse(AddressError):
    """Another program listens there already."""

    kind = "port_in_use"


# --- addresses ---


@dataclass(frozen=True)
class Endpoint:
    """A host (name or IP address, no brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def address(self) -> str:
        """As messages and ZeroMQ want it: `tcp://host:port`, with brackets around an IPv6 host."""
        return f"tcp://{self}"

    @classmethod
    def parse(cls, text: str, *, to_listen: bool = False) -> Endpoint:
        """Read `host:port`, `[ipv6]:port` or the same after `tcp://`.

        Args:
            to_listen: allows port 0, any free one, and the host `*`, every network: nobody can connect to these.

        Raises:
            AddressError: with what is wrong and an example.
        """
        body = text.strip().removeprefix("tcp://")
        host, colon, port_text = body.rpartition(":")
        if not colon or not host:
            raise AddressError(f"'{text}' is no address: write HOST:PORT, for example 192.168.1.20:{DEFAULT_PORT}.")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            address, percent, zone = host.partition("%")
            try:
                ipaddress.IPv6Address(address)
            except ValueError as error:
                raise AddressError(f"'{host}' in '{text}' is no IPv6 address.") from error
            if percent and not _ZONE.fullmatch(zone):
                raise AddressError(f"'{zone}' in '{text}' is no network of a machine, such as eth0.")
        elif ":" in host:
            raise AddressError(f"Write brackets around an IPv6 host: [{host}]:{port_text}.")
        elif not _HOST.fullmatch(host) and not (host == "*" and to_listen):
            raise AddressError(f"'{host}' in '{text}' is no name of a host.")
        least = 0 if to_listen else 1
        # five digits at most: of thousands Python makes no number at all
        if re.fullmatch("[0-9]{1,5}", port_text) is None or not least <= int(port_text) <= 65535:
            raise AddressError(f"'{port_text}' in '{text}' is no port: a number from {least} to 65535.")
        return cls(host, int(port_text))

    @property
    def is_everywhere(self) -> bool:
        """Whether listening here means listening on every network of the machine."""
        return self.host in ("*", "0.0.0.0", "::")


def bind(socket: zmq.Socket[Any], endpoint: Endpoint) -> Endpoint:
    """Listen at `endpoint`; the one returned has the port that was chosen for port 0.

    Raises:
        PortInUse: another program listens there.
        AddressError: this machine has no such address, or the port needs rights that the user lacks.
    """
    try:
        socket.bind(Endpoint(_numeric_host(endpoint.host), endpoint.port).address)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            holder = _listener_on(endpoint.port)
            raise PortInUse(
                f"Port {endpoint.port} on {endpoint.host} is in use by {holder}. "
                f"End that program, or choose another port with --listen {Endpoint(endpoint.host, 0)} (any free one)."
            ) from error
        if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
            raise AddressError(
                f"This machine has no address {endpoint.host}. It has: {', '.join(_own_addresses())}."
            ) from error
        if error.errno == errno.EACCES:
            raise AddressError(f"Port {endpoint.port} needs administrator rights. Use one from 1024 up.") from error
        raise AddressError(f"Cannot listen on {endpoint}: {error}.") from error
    last: str = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return Endpoint(endpoint.host, int(last.rpartition(":")[2]))


def _numeric_host(host: str) -> str:
    """ZeroMQ binds numbers and network interfaces only, so a name is looked up here."""
    if host == "*":
        return host
    try:
        ipaddress.ip_address(host.partition("%")[0])
        return host
    except ValueError:
        pass
    try:
        found = stdlib_socket.getaddrinfo(host, None, type=stdlib_socket.SOCK_STREAM)
    except OSError as error:
        raise AddressError(f"The name '{host}' cannot be resolved: {error}. Use the machine's IP address.") from error
    # IPv4 first: what others are told is a name or an IPv4 address in nearly every home network
    return str(min(found, key=lambda entry: entry[0] != stdlib_socket.AF_INET)[4][0])


def _listener_on(port: int) -> str:
    """Who listens on a port, as far as the system tells an ordinary user."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
                continue
            if connection.laddr.port == port:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError, RuntimeError):
        pass
    return "another program"


def _own_addresses() -> list[str]:
    families = (stdlib_socket.AF_INET, stdlib_socket.AF_INET6)
    return sorted(
        {entry.address for entries in psutil.net_if_addrs().values() for entry in entries if entry.family in families}
    )


# --- sockets ---


def agent_socket(context: zmq.Context[SocketT], keys: KeyPair) -> SocketT:
    """The one ROUTER that an agent binds. Also the controller's for Join.

    It refuses everybody until a `zap.Doorkeeper` stands in the same context.
    """
    socket = context.socket(zmq.ROUTER)
    socket.curve_server = True
    socket.curve_publickey = keys.public.encode("ascii")
    socket.curve_secretkey = keys.secret.encode("ascii")
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    _set_common(socket, BULK_HEARTBEAT_TIMEOUT_MS, send=ANSWERS_HWM)
    return socket


def controller_socket(
    context: zmq.Context[SocketT], keys: KeyPair, server_key: str, identity: bytes, kind: LinkKind
) -> SocketT:
    """A DEALER to an agent, not yet connected.

    Args:
        identity: what the agent's ROUTER knows this connection by, 1 to 255 bytes and not beginning with a
            zero byte. Take something that no other process can guess (16 random bytes chosen at start, and
            the kind of connection): whoever connects under the same identity takes the connection over.
            Empty for one that the ROUTER makes up.
        kind: control, weights and steps go over connections of their own.
    """
    socket = context.socket(zmq.DEALER)
    socket.curve_serverkey = server_key.encode("ascii")
    socket.curve_publickey = keys.public.encode("ascii")
    socket.curve_secretkey = keys.secret.encode("ascii")
    if identity:
        socket.setsockopt(zmq.ROUTING_ID, identity)
    if kind == "control":
        _set_common(socket, CONTROL_HEARTBEAT_TIMEOUT_MS, send=ANSWERS_HWM)
    else:
        _set_common(socket, BULK_HEARTBEAT_TIMEOUT_MS, send=BULK_HWM)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
    return socket


def peer_socket(context: zmq.Context[SocketT], keys: KeyPair, server_key: str) -> SocketT:
    """A DEALER from one agent to the next, for steps or tokens."""
    return controller_socket(context, keys, server_key, b"", "steps")


def _set_common(socket: zmq.Socket[Any], heartbeat_timeout: int, *, send: int) -> None:
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, heartbeat_timeout)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.RCVHWM, RECEIVED_HWM)
    socket.setsockopt(zmq.SNDHWM, send)
    # CURVE adds 33 bytes to each frame
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + 1024)


# --- monitors ---


class LinkEvent(Enum):
    """What became of a client's connection."""

    CONNECTED = "connected"
    REFUSED = "refused"
    """Nothing listens there, or the machine cannot be reached or found by its name; it is tried again."""
    NOT_TRUSTED = "not trusted"
    """The server does not know our key. It is not tried again."""
    WRONG_KEY = "wrong key"
    """The server broke the handshake off: its key is another than the one we were given. Tried for ever."""
    NO_ANSWER = "no answer"
    """Something accepted the connection and did not answer the handshake within 5 s: no agent, or a frozen one."""
    DISCONNECTED = "disconnected"
    """A connection that stood is gone; it is tried again."""


class LinkMonitor:
    """Turns the raw events of one socket into `LinkEvent`s.

    `socket` can be polled; feed what comes from it to `interpret` (asyncio), or call `read` (plain sockets).
    """

    def __init__(self, watched: zmq.Socket[Any]) -> None:
        self._watched = watched
        self.socket = watched.get_monitor_socket(MONITORED)
        self._up = False
        self._attempted = False
        self._explained = False
        self._broken_at: float | None = None

    @property
    def was_given_up(self) -> bool:
        """Whether a connection broke and libzmq does nothing to have it back."""
        return self._broken_at is not None and time.monotonic() - self._broken_at > GIVEN_UP_SECONDS

    def forget(self) -> None:
        """The connection is dialled again: what became of the last one is over."""
        self._broken_at = None

    def read(self) -> list[LinkEvent]:
        """The events that have come, without waiting; only for a plain socket."""
        events = []
        while self.socket.poll(0):
            event = self.interpret(self.socket.recv_multipart())
            if event is not None:
                events.append(event)
        return events

    def interpret(self, frames: list[bytes]) -> LinkEvent | None:
        """What one message of the monitor socket means; None for what is of no interest."""
        message = parse_monitor_message(frames)
        attempted, self._attempted = self._attempted, message["event"] != zmq.Event.CONNECT_RETRIED
        self._broken_at = time.monotonic() if message["event"] == zmq.Event.DISCONNECTED else None
        match message["event"]:
            case zmq.Event.CONNECTED:
                self._explained = False
            case zmq.Event.CONNECT_RETRIED if not attempted:
                return LinkEvent.REFUSED  # the name could not even be resolved
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                self._up = True
                return LinkEvent.CONNECTED
            case zmq.Event.HANDSHAKE_FAILED_AUTH:
                self._explained = True
                return LinkEvent.NOT_TRUSTED
            case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                self._explained = True
                return LinkEvent.NO_ANSWER if message["value"] == errno.EAGAIN else LinkEvent.WRONG_KEY
            case zmq.Event.DISCONNECTED if self._up:
                self._up = False
                return LinkEvent.DISCONNECTED
            case zmq.Event.DISCONNECTED if not self._explained:
                return LinkEvent.NO_ANSWER  # what was said there is no CURVE
            case zmq.Event.CLOSED if not self._up:
                return LinkEvent.REFUSED
        return None

    def close(self) -> None:
        """Before the watched socket is closed."""
        self._watched.disable_monitor()
        self.socket.close(0)
