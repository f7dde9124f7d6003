"""Names that a request may call the server by: those of this machine, so that no site can make its name lead here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.api.hosts import HostNames, host_of, is_loopback
from app.api.keys import make_key
from app.controller_settings import ServerSettings
from tests.api.serving import Served, get_raw, serving
from tests.e2e.conftest import System

NODES = "/shard/api/nodes/status/"


@pytest.fixture(scope="module")
def served(bare: System) -> Iterator[Served]:
    with serving(bare, allowed_origins=("https://proxy.example:8443",)) as served:
        yield served


@pytest.mark.parametrize("name", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LocalHost.", "a.localhost"])
def test_a_name_or_an_address_of_loopback_is_known_as_such(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize("name", ["::ffff:127.0.0.1", "::1%lo"])
def test_an_address_of_loopback_in_other_spellings_is_known_as_such(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize(
    "name",
    [
        "0.0.0.0",
        "::",
        "",
        "192.168.1.2",
        "::ffff:192.168.1.2",
        "localhost.evil.example",
        "xlocalhost",
        "127.1",
        "fe80::1",
    ],
)
def test_everything_else_is_not(name: str) -> None:
    assert not is_loopback(name)


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("127.0.0.1:7878", "127.0.0.1"),
        ("[::1]:7878", "::1"),
        ("Board.Example.", "board.example"),
        ("localhost", "localhost"),
        ("localhost:", "localhost"),
        ("", ""),
        ("[", ""),
        ("[::1", ""),
        ("localhost:port", ""),
        ("localhost:99999", ""),
        ("evil.example/localhost", ""),
        ("localhost@evil.example", ""),
        ("localhost?x", ""),
        ("localhost#x", ""),
    ],
)
def test_a_host_header_is_read_or_malformed(header: str, host: str) -> None:
    assert host_of(header) == host


def test_names_follow_from_the_settings() -> None:
    settings = ServerSettings(host="192.168.1.2", allowed_origins=("https://proxy.example",))
    with_key = HostNames.of(settings, demands_key=True)
    assert with_key.allow("whatever.example"), "every request brings a key, which no page of another site has"
    loopback = HostNames.of(ServerSettings(allowed_origins=("https://proxy.example",)), demands_key=True)
    assert not loopback.allow("whatever.example")
    assert loopback.allow("proxy.example:80") and loopback.allow("localhost") and not loopback.allow("0.0.0.0")


def test_a_site_whose_name_leads_here_gets_nothing(served: Served) -> None:
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", "[", "127.0.0.1@evil.example", "\xff"):
        for path in (NODES, "/", "/health", "/login/", "/static/style.css", "/openapi.json", "/v1/models"):
            for accept in ("Accept: application/json", "Accept: text/html"):
                status, body = get_raw(served, path, accept, host=host)
                assert status == 421, (host, path)
                assert "does not go by the name" in body


def test_a_site_whose_name_leads_here_changes_nothing(served: Served) -> None:
    error = served.error("POST", "/shard/api/nodes/remove/1/", 421, json={}, headers={"host": "evil.example"})
    assert error["code"] == "wrong_host" and "allowed origins" in error["advice"]


def test_a_request_without_a_host_is_refused(served: Served) -> None:
    assert get_raw(served, NODES, host="")[0] == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:80", "LOCALHOST", "[::1]:1", "a.localhost", "proxy.example"])
def test_the_machines_own_names_and_a_proxys_are_let_in(served: Served, host: str) -> None:
    assert get_raw(served, NODES, host=host)[0] == 200


def test_on_every_network_any_name_will_do_with_a_key(bare: System) -> None:
    key = make_key(bare.controller.registry, "laptop")
    try:
        with serving(bare, host="0.0.0.0") as served:
            assert get_raw(served, NODES, f"x-api-key: {key}", host="board.example")[0] == 200
            assert get_raw(served, NODES, host="board.example")[0] == 401
            assert get_raw(served, NODES, f"x-api-key: {key}", host="[")[0] == 421
    finally:
        bare.controller.registry.api_keys.remove("laptop")
