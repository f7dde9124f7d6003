"""Addresses, ports, and what the monitor of a connection tells."""

from __future__ import annotations

import secrets
import socket as stdlib_socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import zmq
import zmq.asyncio

from tests.faults.relay import Relays, flipped
from tests.worker_agent.agent_process import until
from worker_agent.wire.complaints import MOST_REASONS
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import (
    AddressError,
    Endpoint,
    LinkEvent,
    LinkKind,
    LinkMonitor,
    PortInUse,
    agent_socket,
    bind,
)
from worker_agent.wire.links import controller_socket as client_socket
from worker_agent.wire.messages import CHUNK_BYTES
from worker_agent.wire.zap import Doorkeeper

Context = zmq.Context[zmq.Socket[bytes]]
HERE = Endpoint("127.0.0.1", 0)
SERVER, FRIEND, STRANGER = KeyPair.make(), KeyPair.make(), KeyPair.make()


@pytest.mark.parametrize(
    ("text", "host", "port", "address"),
    [
        ("127.0.0.1:5555", "127.0.0.1", 5555, "tcp://127.0.0.1:5555"),
        (" tcp://pc.local:7600 ", "pc.local", 7600, "tcp://pc.local:7600"),
        ("[::1]:80", "::1", 80, "tcp://[::1]:80"),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80, "tcp://[fe80::1%eth0]:80"),
        ("my_pc-2.local.:7600", "my_pc-2.local.", 7600, "tcp://my_pc-2.local.:7600"),
    ],
)
def test_an_address_is_read_and_written(text: str, host: str, port: int, address: str) -> None:
    endpoint = Endpoint.parse(text)
    assert (endpoint.host, endpoint.port, endpoint.address) == (host, port, address)
    assert Endpoint.parse(endpoint.address) == endpoint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("7600", "HOST:PORT"),
        (":7600", "HOST:PORT"),
        ("", "HOST:PORT"),
        ("pc", "HOST:PORT"),
        ("pc:x", "no port"),
        ("pc:\u0663", "no port"),
        ("pc:0", "no port"),
        ("pc:65536", "no port"),
        ("pc:-1", "no port"),
        ("pc:" + "1" * 5000, "no port"),
        ("::1:7600", "brackets"),
        ("[nonsense]:1", "no IPv6 address"),
        ("a b:1", "no name of a host"),
        ("m\u00fcller:1", "no name of a host"),
        ("a\0b:1", "no name of a host"),
        ("-a:1", "no name of a host"),
        ("a..b:1", "no name of a host"),
        ("a" * 64 + ":1", "no name of a host"),
        ("a%b:1", "no name of a host"),
        ("*:7600", "no name of a host"),
        ("[::1%]:1", "no network"),
        ("[fe80::1%a b]:1", "no network"),
        ("http://pc:1", "brackets|no name of a host"),
    ],
)
def test_what_is_no_address_is_told_why(text: str, reason: str) -> None:
    with pytest.raises(AddressError, match=reason):
        Endpoint.parse(text)


def test_where_to_listen_may_be_everywhere_and_at_any_port() -> None:
    endpoint = Endpoint.parse("*:0", to_listen=True)
    assert (endpoint.address, endpoint.is_everywhere) == ("tcp://*:0", True)


def test_a_port_in_use_is_named_with_advice(context: Context) -> None:
    with stdlib_socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with agent_socket(context, SERVER) as router, pytest.raises(PortInUse) as caught:
            bind(router, Endpoint("127.0.0.1", port))
    assert f"Port {port} on 127.0.0.1 is in use by" in str(caught.value)
    assert "--listen 127.0.0.1:0" in str(caught.value)


def test_an_address_of_another_machine_is_told_with_ones_own(context: Context) -> None:
    with (
        agent_socket(context, SERVER) as router,
        pytest.raises(AddressError, match=r"no address 192\.0\.2\.1.*127\.0\.0\.1"),
    ):
        bind(router, Endpoint("192.0.2.1", 0))
    with agent_socket(context, SERVER) as router, pytest.raises(AddressError, match="cannot be resolved"):
        bind(router, Endpoint("no-such-host.invalid", 0))


def test_a_name_can_be_listened_on(context: Context) -> None:
    with agent_socket(context, SERVER) as router:
        endpoint = bind(router, Endpoint("localhost", 0))
        assert endpoint.host == "localhost"
        assert endpoint.port > 0


# --- connections ---


@pytest.fixture
def door(context: Context) -> Iterator[Doorkeeper]:
    """Lets FRIEND in."""
    door = Doorkeeper(context, lambda key: key == FRIEND.public)
    door.open()
    yield door
    door.close()


@pytest.fixture
def server(context: Context) -> Iterator[zmq.Socket[bytes]]:
    with agent_socket(context, SERVER) as router:
        router.linger = 0
        yield router


class Watched:
    """A client and the events of its connection."""

    def __init__(
        self,
        context: Context,
        keys: KeyPair,
        address: str,
        server_key: str = SERVER.public,
        kind: LinkKind = "control",
    ) -> None:
        self.socket = client_socket(context, keys, server_key, b"c" + secrets.token_bytes(15), kind)
        self.monitor = LinkMonitor(self.socket)
        self.seen: list[LinkEvent] = []
        self.socket.connect(address)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self.monitor.close()
        self.socket.close(0)

    def sees(self, event: LinkEvent, count: int = 1, seconds: float = 10.0) -> None:
        def enough() -> bool:
            self.seen.extend(self.monitor.read())
            return self.seen.count(event) >= count

        until(enough, seconds)


def test_a_known_key_is_let_in_and_named(context: Context, server: zmq.Socket[bytes], door: Doorkeeper) -> None:
    address = bind(server, HERE).address
    with Watched(context, FRIEND, address) as client:
        client.socket.send(b"good day")
        client.sees(LinkEvent.CONNECTED)
        frames = server.recv_multipart(copy=False)
        assert frames[1].bytes == b"good day"
        assert frames[1].get("User-Id") == FRIEND.public


def test_an_unknown_key_is_turned_away_and_told(context: Context, server: zmq.Socket[bytes], door: Doorkeeper) -> None:
    address = bind(server, HERE).address
    with Watched(context, STRANGER, address) as client:
        client.socket.send(b"let me in")
        client.sees(LinkEvent.NOT_TRUSTED)
        assert not server.poll(200)
        assert LinkEvent.CONNECTED not in client.seen


def test_nobody_is_let_in_while_no_doorkeeper_stands(context: Context, server: zmq.Socket[bytes]) -> None:
    address = bind(server, HERE).address
    with Watched(context, FRIEND, address) as client:
        client.socket.send(b"is nobody here?")
        client.sees(LinkEvent.WRONG_KEY, count=2)
        assert not server.poll(100)


def test_a_doorkeeper_that_fails_lets_nobody_in(context: Context, server: zmq.Socket[bytes]) -> None:
    def broken(key: str) -> bool:
        raise OSError("the disk is gone")

    door = Doorkeeper(context, broken)
    door.open()
    address = bind(server, HERE).address
    with Watched(context, FRIEND, address) as client:
        client.sees(LinkEvent.NOT_TRUSTED)
    assert door.is_alive()
    door.close()


def test_a_wrong_key_of_the_server_shows(context: Context, server: zmq.Socket[bytes], door: Doorkeeper) -> None:
    address = bind(server, HERE).address
    with Watched(context, FRIEND, address, server_key=STRANGER.public) as client:
        client.sees(LinkEvent.WRONG_KEY, count=2)
        assert LinkEvent.CONNECTED not in client.seen


def test_a_refused_connection_and_an_unknown_name_show(context: Context) -> None:
    with stdlib_socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    with Watched(context, FRIEND, f"tcp://127.0.0.1:{port}") as client:
        client.sees(LinkEvent.REFUSED)
    with Watched(context, FRIEND, "tcp://no-such-host.invalid:7600") as client:
        client.sees(LinkEvent.REFUSED)


def test_strangers_that_come_again_and_again_fill_no_log(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    door = Doorkeeper(context, lambda key: False)
    door.open()
    for number in range(3 * MOST_REASONS):
        key = number.to_bytes(32, "big")
        answer = door._answer([b"1.0", b"1", b"shardboard", b"192.0.2.1", b"", b"CURVE", key])
        assert answer[2] == b"400"
    door.close()
    assert len(caplog.messages) == MOST_REASONS
    assert caplog.messages[0].startswith("refused a connection from 192.0.2.1: unknown key 0000")


def test_something_that_is_no_agent_does_not_answer(context: Context) -> None:
    with (
        stdlib_socket.create_server(("127.0.0.1", 0)) as mute,
        Watched(context, FRIEND, f"tcp://127.0.0.1:{mute.getsockname()[1]}") as client,
    ):
        client.sees(LinkEvent.NO_ANSWER)


def test_a_connection_that_breaks_shows_and_comes_back(context: Context, door: Doorkeeper) -> None:
    first = agent_socket(context, SERVER)
    endpoint = bind(first, HERE)
    with Watched(context, FRIEND, endpoint.address) as client:
        client.sees(LinkEvent.CONNECTED)
        first.close(0)
        client.sees(LinkEvent.DISCONNECTED)
        with agent_socket(context, SERVER) as second:
            until(lambda: _bound(second, endpoint))
            client.sees(LinkEvent.CONNECTED, count=2)


def test_a_connection_on_which_something_was_damaged_breaks_at_once_and_is_not_tried_again(
    context: Context, server: zmq.Socket[bytes], door: Doorkeeper
) -> None:
    """Whoever asks a monitor for all events has it kept, silent, and may be ended with all that he does."""
    endpoint = bind(server, HERE)
    with Relays() as relays:
        relay = relays.before(endpoint.address)
        with Watched(context, FRIEND, relay.address, kind="steps") as client:
            client.sees(LinkEvent.CONNECTED)
            relay.damage("controller", "back", flipped)
            client.sees(LinkEvent.DISCONNECTED, seconds=5)
            until(lambda: client.monitor.was_given_up, 5)
            client.socket.disconnect(relay.address)
            client.socket.connect(relay.address)
            client.sees(LinkEvent.CONNECTED, count=2)
            assert not client.monitor.was_given_up


def test_an_asyncio_context_makes_asyncio_sockets() -> None:
    context = zmq.asyncio.Context()
    with client_socket(context, FRIEND, SERVER.public, b"name", "weights") as socket:
        assert isinstance(socket, zmq.asyncio.Socket)
    door = Doorkeeper(context, lambda key: True)
    door.open()
    door.close()
    context.term()


STOPPED = """
import sys, time
import zmq
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import Endpoint, agent_socket, bind, controller_socket
from worker_agent.wire.zap import Doorkeeper

context, keys = zmq.Context(), KeyPair.make()
door = Doorkeeper(context, lambda key: True)
door.start()
server = agent_socket(context, keys)
address = bind(server, Endpoint.parse("127.0.0.1:0", to_listen=True)).address
client = controller_socket(context, KeyPair.make(), keys.public, b"somebody", "control")
client.setsockopt(zmq.LINGER, 5000)
client.connect(address)
client.send(b"0")
assert server.recv_multipart()[1] == b"0"
for number in range(1, 200):
    client.send(str(number).encode())
time.sleep(WAIT)  # with 1.5 s there is a ping behind it all
client.close()
time.sleep(2.5)
got = []
while server.poll(500):
    got.append(int(server.recv_multipart()[1]))
assert got == list(range(1, 200)), got
other = controller_socket(context, KeyPair.make(), keys.public, b"another", "control")
other.connect(address)
other.send(b"still there")
assert server.recv_multipart()[1] == b"still there"
print("lives")
"""


@pytest.mark.parametrize("wait", [0.5, 1.5])
def test_a_process_that_reads_nothing_for_a_while_outlives_those_who_sent_much_and_went_away(wait: float) -> None:
    program = STOPPED.replace("WAIT", str(wait))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "lives\n", (done.returncode, done.stderr)


def test_a_chunk_that_takes_longer_than_a_heartbeat_arrives(
    context: Context, server: zmq.Socket[bytes], door: Doorkeeper
) -> None:
    """A link of 8 Mbit/s: one chunk of weights is under way for four seconds, during which no ping gets through."""
    endpoint = bind(server, HERE)
    with (
        SlowLink(endpoint, bytes_per_second=1_000_000) as link,
        Watched(context, FRIEND, link.address, kind="weights") as sender,
    ):
        begun = time.monotonic()
        sender.socket.send(secrets.token_bytes(CHUNK_BYTES))
        assert server.poll(15_000)
        assert len(server.recv_multipart()[1]) == CHUNK_BYTES
        assert time.monotonic() - begun > 3.5
        assert LinkEvent.DISCONNECTED not in sender.monitor.read()


def _bound(socket: zmq.Socket[bytes], endpoint: Endpoint) -> bool:
    """A port may stay taken for a moment after its socket was closed."""
    try:
        bind(socket, endpoint)
    except PortInUse:
        return False
    return True


class SlowLink:
    """A TCP forwarder that lets so many bytes a second through towards the server."""

    def __init__(self, server: Endpoint, bytes_per_second: int) -> None:
        self._server = server
        self._rate = bytes_per_second
        self._listener = stdlib_socket.create_server(("127.0.0.1", 0))
        self._sockets: list[stdlib_socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> SlowLink:
        self._run(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        for end in (self._listener, *self._sockets):
            with suppress(OSError):  # its other end may have closed it
                end.shutdown(stdlib_socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(5)

    def _run(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        near.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, 65536)
        far = stdlib_socket.create_connection((self._server.host, self._server.port))
        self._sockets += [near, far]
        self._run(self._pump, near, far, self._rate)
        self._run(self._pump, far, near, 10**9)

    @staticmethod
    def _pump(source: stdlib_socket.socket, target: stdlib_socket.socket, rate: int) -> None:
        with suppress(OSError):  # closing either end is how the forwarding ends
            while piece := source.recv(16384):
                target.sendall(piece)
                time.sleep(len(piece) / rate)
