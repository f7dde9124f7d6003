"""What is too big, too slow or too much is refused at once, and holds nobody else up."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from app.api import server as server_module
from app.api.gate import MOST_BODY_BYTES, Bounded
from app.api.keys import make_key
from tests.api.serving import ENDLESS, Served, connected, get_raw, read_all, serving
from tests.e2e.conftest import System
from tests.waiting import wait_until

CHANGE = "/shard/api/nodes/remove/999/"
"""Answered with 404 when it comes through: there is no such node."""
SOON = 20.0


@pytest.fixture(scope="module")
def served(bare: System) -> Iterator[Served]:
    with serving(bare) as served:
        yield served


@contextmanager
def impatient(bare: System, seconds: float) -> Iterator[Served]:
    """A server that waits no longer than this for a body."""
    with serving(bare) as served:
        (bounded,) = [one for one in served.server._application.user_middleware if one.cls is Bounded]
        bounded.kwargs["seconds"] = seconds
        yield served


def head(served: Served, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {CHANGE} HTTP/1.1", f"Host: {served.host}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def answer_of(connection: socket.socket) -> str:
    """An answer behind which the server hangs up."""
    return read_all(connection).decode()


@contextmanager
def waiting(served: Served) -> Iterator[socket.socket]:
    """A request whose body does not come: it is under way for as long as nobody loses patience."""
    before = served.server._gate.active
    with connected(served) as connection:
        connection.sendall(head(served, "Content-Length: 2", "Connection: close"))
        wait_until(lambda: served.server._gate.active == before + 1)
        yield connection


# --- too big ---


def test_a_body_that_says_it_is_too_big_is_refused_unread(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(head(served, f"Content-Length: {MOST_BODY_BYTES + 1}"))
        answer = answer_of(connection)
    assert answer.startswith("HTTP/1.1 413") and '"too_large"' in answer
    assert "connection: close" in answer.lower()


def test_a_body_that_does_not_say_how_big_it_is_is_cut_off_where_it_is_too_big(served: Served) -> None:
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with connected(served) as connection:
        connection.sendall(head(served, "Transfer-Encoding: chunked"))
        with suppress(ConnectionError):  # it hangs up before the end
            for _ in range(MOST_BODY_BYTES // 0x10000 + 1):
                connection.sendall(piece)
        answer = answer_of(connection)
    assert answer.startswith("HTTP/1.1 413")


def test_a_body_of_the_greatest_size_is_taken(served: Served) -> None:
    body = b"{}".rjust(MOST_BODY_BYTES)
    served.error("POST", CHANGE, 404, content=body, headers={"content-type": "application/json"})
    served.error("POST", CHANGE, 413, content=body + b" ", headers={"content-type": "application/json"})


def test_who_may_not_come_in_cannot_fill_memory(bare: System) -> None:
    make_key(bare.controller.registry, "laptop")
    try:
        with serving(bare, demand_key=True) as served, connected(served) as connection:
            connection.sendall(head(served, f"Content-Length: {MOST_BODY_BYTES}", "Connection: close"))
            assert answer_of(connection).startswith("HTTP/1.1 401"), "before a byte of the body was sent"
    finally:
        bare.controller.registry.api_keys.remove("laptop")


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "9" * 30, "1, 2", "nothing"])
def test_a_length_that_is_none_is_refused(served: Served, length: str) -> None:
    with connected(served) as connection:
        connection.sendall(head(served, f"Content-Length: {length}") + b"{}")
        assert answer_of(connection).startswith(("HTTP/1.1 400", "HTTP/1.1 413"))


def test_a_head_of_endless_length_is_refused(served: Served) -> None:
    with connected(served) as connection:
        with suppress(ConnectionError):
            connection.sendall(head(served, *(f"X-{number}: {'x' * 1000}" for number in range(200))))
        assert answer_of(connection)[:12] in ("HTTP/1.1 400", "")


# --- too slow ---


def test_a_body_that_does_not_come_is_not_waited_for(bare: System) -> None:
    with impatient(bare, 0.3) as served, waiting(served) as connection:
        answer = answer_of(connection)
        assert answer.startswith("HTTP/1.1 408") and '"slow_body"' in answer
        assert "connection: close" in answer.lower()


def test_a_body_that_dribbles_in_is_not_waited_for_either(bare: System) -> None:
    with impatient(bare, 0.5) as served, connected(served) as connection:
        connection.sendall(head(served, "Content-Length: 1000000"))
        assert dribble(connection).startswith(b"HTTP/1.1 408")


def test_a_head_that_does_not_come_is_not_waited_for(bare: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.3)
    with serving(bare) as served:
        for beginning in (b"", b"GET / HTTP/1.1\r\nHost: x"):
            with connected(served) as connection:
                connection.sendall(beginning)
                assert read_all(connection) == b""
        with connected(served) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n")
            assert dribble(connection) == b""


def test_the_next_head_on_a_connection_is_not_waited_for_either(bare: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.3)
    with serving(bare) as served, connected(served) as connection:
        connection.sendall(head(served, method="GET"))
        received = connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 405")
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert b"HTTP/1.1" not in dribble(connection)


def test_patience_with_the_head_ends_no_answer(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.1)
    with serving(api.system) as served:
        request = served.submit(**ENDLESS)
        began, seen = time.monotonic(), ""
        with served.client.stream("GET", f"/shard/api/inference/stream/{request}/") as response:
            for text in response.iter_text():
                seen += text
                if time.monotonic() - began > 0.5 and served.status(request)["status"] == "processing":
                    served.cancel(request)
        assert "event: finished" in seen


def test_a_client_that_reads_nothing_is_let_go(bare: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STALLED_SECONDS", 0.3)
    long = bare.controller.registry.requests.add(model_name="tiny", prompt="x" * 4_000_000)
    with serving(bare) as served:
        assert served.server._socket is not None
        served.server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with connected(served, receive_buffer=2048) as connection:
            path = f"/shard/api/runs/export/?ids={long.id}"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode())
            wait_until(lambda: served.server._gate.active == 1)
            wait_until(lambda: served.server._gate.active == 0)
            assert served.server._application.state.downloads._under_way == 0
        assert len(served.client.get(path).content) > 4_000_000, "who reads gets all of it"


# --- too much ---


def test_more_requests_than_there_is_room_for_are_told_to_come_again(bare: System) -> None:
    with serving(bare) as served, ExitStack() as held:
        served.server._gate._most = 3
        for _ in range(3):
            held.enter_context(waiting(served))
        refused = served.client.get("/")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
        for path in ("/health", "/health/live", "/metrics"):
            assert served.client.get(path).status_code == 200, "somebody must be able to see why"
        held.close()
        wait_until(lambda: served.client.get("/").status_code == 200)


def test_a_client_that_leaves_makes_room(bare: System) -> None:
    with serving(bare) as served:
        with waiting(served):
            assert served.server._gate.active == 1
        wait_until(lambda: served.server._gate.active == 0)


def test_refused_requests_do_not_count_as_under_way(served: Served) -> None:
    for _ in range(3):
        assert get_raw(served, "/", host="evil.example")[0] == 421
        served.error("GET", "/nothing/here", 404)
    wait_until(lambda: served.server._gate.active == 0)


def dribble(connection: socket.socket) -> bytes:
    """Send a byte whenever the server has nothing to say, until it hangs up; what it said."""
    received, deadline = bytearray(), time.monotonic() + SOON
    connection.settimeout(0.03)
    while time.monotonic() < deadline:
        try:
            connection.sendall(b"x")
            piece = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            return bytes(received)
        if not piece:
            return bytes(received)
        received += piece
    raise AssertionError("the server has endless patience")
