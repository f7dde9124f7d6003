"""The server itself: where it listens, what it says when it cannot, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from app.api.server import ApiServer
from app.controller_settings import ServerSettings
from app.errors import BadInput
from app.registry import RequestStatus
from tests.api.serving import ENDLESS, MODEL, Served, connected, read_all, serving
from tests.e2e.conftest import System
from tests.waiting import wait_until


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """For what waits while the test goes on."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


def stopping(served: Served, beside: ThreadPoolExecutor, deadline: float) -> Future[None]:
    """Begin to stop a server; returns once it takes nothing new."""
    stopped = beside.submit(lambda: served.system.run(served.server.stop(deadline)))
    wait_until(lambda: served.server._gate.draining)
    return stopped


# --- where it listens ---


def test_it_says_where_a_browser_finds_it(bare: System) -> None:
    for host, name in (("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("127.0.0.2", "127.0.0.2")):
        with serving(bare, host=host) as served:
            assert served.url.startswith(f"http://{name}:") and not served.url.endswith(":0")
            assert served.client.get("/health/live").json() == {"status": "ok"}
    for host, url in (("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://127.0.0.1:80"), ("::1", "http://[::1]:80")):
        assert ApiServer(bare.controller, ServerSettings(host=host, port=80)).url == url


def test_a_port_that_is_taken_is_told(bare: System) -> None:
    with serving(bare) as served:
        port = int(served.host.rpartition(":")[2])
        with pytest.raises(BadInput, match="another program listens there already") as caught, serving(bare, port=port):
            pass
        assert "another port" in caught.value.advice
        assert served.client.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("203.0.113.7", "this machine has no such address"),
        ("no-such-host.invalid", "cannot listen on no-such-host.invalid"),
        ("not a name", "cannot listen on not a name"),
    ],
)
def test_an_address_that_it_cannot_have_is_told(bare: System, host: str, reason: str) -> None:
    bare.controller.registry.api_keys.add(name="test", digest="0" * 64, hint="0000")
    try:
        with pytest.raises(BadInput, match=reason) as caught, serving(bare, host=host):
            pass
        assert "127.0.0.1 is this machine alone" in caught.value.advice
    finally:
        bare.controller.registry.api_keys.remove("test")


def test_its_port_is_free_once_it_has_ended(bare: System) -> None:
    with serving(bare) as served:
        port = int(served.host.rpartition(":")[2])
        assert served.server.is_running
        with connected(served) as idle:
            bare.run(served.server.stop(1.0))
            assert read_all(idle) == b"", "connections that wait are closed"
    assert not served.server.is_running
    with serving(bare, port=port) as again:
        assert again.client.get("/health/live").status_code == 200
    bare.run(again.server.stop(1.0))  # a second time does nothing


def test_several_servers_stand_in_front_of_one_controller(bare: System) -> None:
    with serving(bare) as first, serving(bare) as second:
        assert first.url != second.url
        assert first.get("/") == second.get("/")


# --- how it ends ---


def test_what_is_under_way_may_end_and_nothing_new_begins(bare: System, beside: ThreadPoolExecutor) -> None:
    with serving(bare) as served, connected(served) as connection:
        head = (
            f"POST /shard/api/nodes/remove/999/ HTTP/1.1\r\nHost: {served.host}\r\nContent-Type: application/json\r\n"
        )
        connection.sendall(f"{head}Content-Length: 2\r\n\r\n".encode())
        wait_until(lambda: served.server._gate.active == 1)
        stopped = stopping(served, beside, 30.0)

        refused = served.client.get("/")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["connection"] == "close" and int(refused.headers["retry-after"]) > 0
        health = served.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "ending")
        assert served.client.get("/health/ready").status_code == 503
        assert served.client.get("/health/live").status_code == 200
        assert not stopped.done()

        connection.sendall(b"{}")
        assert read_all(connection).startswith(b"HTTP/1.1 404"), "it was answered after all"
        stopped.result(10)
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.url)


def test_a_request_that_nobody_follows_may_end_too(cluster: System) -> None:
    with serving(cluster) as served:
        request = served.submit(max_tokens=40, ignore_eos=True)
        cluster.run(served.server.stop(30.0))
    record = served.record(request)
    assert (record.status, record.completion_tokens) == (RequestStatus.COMPLETED, 40)


def test_after_its_time_answers_are_cancelled_and_their_clients_told(
    cluster: System, beside: ThreadPoolExecutor
) -> None:
    with serving(cluster) as served:
        request = served.submit(**ENDLESS)
        followed = beside.submit(lambda: served.client.get(f"/shard/api/inference/stream/{request}/").text)
        body = {"model": MODEL, "prompt": "x", "stream": True, **ENDLESS}
        openai = beside.submit(lambda: served.client.post("/v1/completions", json=body).text)
        wait_until(lambda: served.server.streams == 2)
        wait_until(lambda: all(len(run.token_ids) > 2 for run in cluster.controller.inference.running()))
        cluster.run(served.server.stop(0.1))
        last = followed.result(10).strip().split("\n\n")[-1]
        assert last.startswith("event: finished") and '"status":"cancelled"' in last
        assert '"error"' in openai.result(10), "a stream that just ended would look like a whole answer"
    record = served.record(request)
    assert record.status is RequestStatus.CANCELLED and 2 < record.completion_tokens < 4000


def test_a_client_that_never_ends_does_not_hold_it_up(bare: System) -> None:
    with serving(bare) as served, connected(served) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: {served.host}\r\nContent-Length: 9\r\n\r\n".encode())
        wait_until(lambda: served.server._gate.active == 1)
        bare.run(served.server.stop(0.1))
        assert not served.server.is_running
        read_all(connection)  # which ends: the connection is cut


def test_what_the_window_asked_for_goes_on(cluster: System) -> None:
    with serving(cluster) as served:
        run = cluster.begin(MODEL, "The quick brown", max_tokens=4000, ignore_eos=True)
        wait_until(lambda: len(run.token_ids) > 2)
        cluster.run(served.server.stop(0.1))
    assert not run.is_over
    cluster.run(run.cancel())
