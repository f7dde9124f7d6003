"""API keys: where one is demanded, what it opens, that it is kept nowhere, and that it ends when it is removed."""

from __future__ import annotations

import socket

import httpx
import pytest

from app.api.keys import digest_of, make_key, owner_of
from app.errors import BadInput, RegistryError
from tests.api.serving import Served, get_raw, serving
from tests.e2e.conftest import System

NODES = "/shard/api/nodes/status/"
OPEN = ("/health", "/health/live", "/health/ready")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


# --- where a key is demanded ---


@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("::", marks=IPV6)])
def test_any_address_but_loopback_demands_a_key(bare: System, host: str) -> None:
    with pytest.raises(BadInput, match="demand an API key, but there is none") as caught, serving(bare, host=host):
        pass
    assert "key add" in caught.value.advice
    key = make_key(bare.controller.registry, "laptop")
    try:
        with serving(bare, host=host) as served:
            assert served.error("GET", NODES, 401)["code"] == "no_key"
            assert served.get(NODES, headers={"x-api-key": key}) == {"nodes": []}
    finally:
        bare.controller.registry.api_keys.remove("laptop")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", pytest.param("::1", marks=IPV6)])
def test_loopback_needs_no_key(bare: System, host: str) -> None:
    with serving(bare, host=host) as served:
        assert served.get(NODES) == {"nodes": []}


def test_a_server_that_is_to_demand_keys_does_not_start_without_one(bare: System) -> None:
    with pytest.raises(BadInput, match="but there is none"), serving(bare, demand_key=True):
        pass


def test_where_no_key_is_demanded_any_will_do(bare: System) -> None:
    with serving(bare) as served:
        for headers in ({"authorization": "Bearer unused"}, {"x-api-key": "none"}, {"authorization": "Basic x"}):
            assert served.get(NODES, headers=headers) == {"nodes": []}


# --- what it opens ---


def test_the_right_key_comes_in_either_header(locked: Served, key: str) -> None:
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"Authorization": f"bearer  {key}"},
        {"x-api-key": key},
        {"authorization": "Bearer", "x-api-key": key},
    ):
        assert locked.get(NODES, headers=headers) == {"nodes": []}


def test_a_wrong_key_is_refused(locked: Served, key: str) -> None:
    for wrong in ("sb-wrong", key[:-1], key + "x", key.upper(), digest_of(key), key[-4:], "laptop", "\xff"):
        for headers in (
            {b"authorization": f"Bearer {wrong}".encode("latin-1")},
            {b"x-api-key": wrong.encode("latin-1")},
        ):
            error = locked.error("GET", NODES, 401, headers=headers)
            assert error["code"] == "wrong_key" and wrong not in error["message"]


def test_without_a_key_the_answer_says_how_to_send_one(locked: Served, key: str) -> None:
    for headers in ({}, {"authorization": f"Basic {key}"}, {"authorization": key}, {"authorization": ""}):
        response = locked.client.get(NODES, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "no_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in response.json()["error"]["advice"]


def test_every_endpoint_demands_it_but_health(locked: Served, key: str) -> None:
    paths = locked.get("/openapi.json", headers={"x-api-key": key})["paths"]
    assert len(paths) > 30
    for path, methods in paths.items():
        for method in methods:
            filled = path.replace("{kind}", "job").replace("{", "").replace("}", "")
            status = locked.client.request(method, filled, json={}).status_code
            assert status in ((200, 503) if path in OPEN else (401,)), (method, path, status)
    for path in ("/docs", "/openapi.json", "/nothing/here"):
        assert locked.client.get(path).status_code == 401
    for path in ("/login/", "/static/style.css"):
        assert locked.client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../shard/api/nodes/status/",
        "/static/..%2fshard/api/nodes/status/",
        "/login/../shard/api/nodes/status/",
        "/health/../shard/api/nodes/status/",
        "//shard/api/nodes/status/",
        "/./shard/api/nodes/status/",
        "/shard/api/nodes/status/?/login",
        "/%2e%2e/shard/api/nodes/status/",
        "http://127.0.0.1/shard/api/nodes/status/",
        "/static/../../app/api/keys.py",
    ],
)
def test_no_spelling_of_a_path_leads_around_the_door(locked: Served, path: str) -> None:
    status, body = get_raw(locked, path)
    assert status in (400, 401, 404)
    assert '"nodes"' not in body and "def make_key" not in body


def test_openais_clients_are_told_in_their_own_words(locked: Served) -> None:
    answer = locked.client.get("/v1/models", headers={"authorization": "Bearer sb-wrong"})
    assert answer.status_code == 401
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_use_of_a_key_is_noted(bare: System, locked: Served, key: str) -> None:
    (before,) = bare.controller.registry.api_keys.list()
    assert before.last_used_at is None
    locked.get(NODES, headers={"x-api-key": key})
    (after,) = bare.controller.registry.api_keys.list()
    assert after.last_used_at is not None
    locked.get(NODES, headers={"x-api-key": key})
    assert bare.controller.registry.api_keys.list() == [after], "once a minute is often enough"


# --- what is kept of it, and its end ---


def test_a_key_is_kept_as_its_hash_only(bare: System, locked: Served, key: str) -> None:
    locked.get(NODES, headers={"authorization": f"Bearer {key}"})
    locked.error("GET", "/nothing/here", 404, headers={"x-api-key": key})
    files = {path: path.read_bytes() for path in bare.home.root.rglob("*") if path.is_file()}
    registry = b"".join(content for path, content in files.items() if "sqlite" in path.name)
    assert digest_of(key).encode() in registry, "this looks in the right place"
    for path, content in files.items():
        assert key.encode() not in content and key.removeprefix("sb-").encode() not in content, path


def test_a_key_that_is_removed_stops_working_at_once(bare: System, locked: Served, key: str) -> None:
    make_key(bare.controller.registry, "other")
    try:
        with httpx.Client(base_url=locked.url, headers={"x-api-key": key}) as client:  # one connection, kept open
            assert client.get(NODES).status_code == 200
            bare.controller.registry.api_keys.remove("laptop")
            assert client.get(NODES).status_code == 401
    finally:
        bare.controller.registry.api_keys.remove("other")


def test_a_key_is_known_by_its_name_and_no_name_is_taken_twice(bare: System, key: str) -> None:
    (record,) = bare.controller.registry.api_keys.list()
    assert (record.name, record.hint, record.digest) == ("laptop", key[-4:], digest_of(key))
    assert owner_of(key, [record]) == record and owner_of(key + " ", [record]) is None
    with pytest.raises(RegistryError, match="'laptop' already"):
        make_key(bare.controller.registry, " laptop ")
    for name in ("", "  ", "x" * 65, "a\nb", "\x00"):
        with pytest.raises(BadInput, match="cannot name an API key"):
            make_key(bare.controller.registry, name)


def test_no_two_keys_are_alike(bare: System) -> None:
    names = [f"machine {number}" for number in range(5)]
    try:
        keys = {make_key(bare.controller.registry, name) for name in names}
        assert len(keys) == 5 and all(len(key) == 35 and key.startswith("sb-") for key in keys)
    finally:
        for name in names:
            bare.controller.registry.api_keys.remove(name)
