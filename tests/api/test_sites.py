"""Pages of other sites: what they cause is not done, unless the settings name them (CORS)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.api.keys import make_key
from app.controller_settings import ControllerSettings, ServerSettings
from app.errors import BadInput
from tests.api.serving import Served, serving
from tests.e2e.conftest import System

CHANGE = "/shard/api/nodes/remove/999/"
"""Answered with 404 when the door lets it through: there is no such node."""
FRIEND = "https://friend.example"


@pytest.fixture(scope="module")
def served(bare: System) -> Iterator[Served]:
    with serving(bare) as served:
        yield served


@pytest.fixture(scope="module")
def friendly(bare: System) -> Iterator[Served]:
    with serving(bare, allowed_origins=(FRIEND,)) as served:
        yield served


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "file://",
        "http://[",
        "http://[::1",
        "http://127.0.0.1:1",
        "http://127.0.0.1",
        "http://user@{host}",
        "http://{host}.evil.example",
        "\xff",
    ],
)
def test_a_change_that_a_page_of_another_site_causes_is_refused(served: Served, origin: str) -> None:
    header = origin.format(host=served.host).encode("latin-1")
    error = served.error("POST", CHANGE, 403, json={}, headers={"origin": header})
    assert error["code"] == "cross_site"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "anything"])
def test_what_the_browser_says_is_from_elsewhere_is_refused(served: Served, site: str) -> None:
    assert served.error("POST", CHANGE, 403, json={}, headers={"sec-fetch-site": site})["code"] == "cross_site"
    own = {"origin": f"http://{served.host}", "sec-fetch-site": site}
    assert served.error("POST", CHANGE, 403, json={}, headers=own)["code"] == "cross_site"


def test_the_servers_own_pages_and_programs_are_let_through(served: Served) -> None:
    for headers in (
        {},
        {"origin": f"http://{served.host}"},
        {"origin": f"http://{served.host}", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ):
        assert "no node 999" in served.error("POST", CHANGE, 404, json={}, headers=headers)["message"]


def test_every_way_of_changing_something_is_guarded(served: Served) -> None:
    paths = served.get("/openapi.json")["paths"]
    changing = [(path, method) for path, methods in paths.items() for method in methods if method != "get"]
    assert len(changing) > 10
    for path, method in [*changing, ("/login/", "post"), ("/logout/", "post"), ("/nothing/here", "delete")]:
        answer = served.client.request(method, path, json={}, headers={"origin": "https://evil.example"})
        assert answer.status_code == 403, path


def test_a_key_in_a_header_needs_no_origin(bare: System) -> None:
    """No page of another site has one, and none can send that header without being asked for leave first."""
    key = make_key(bare.controller.registry, "laptop")
    try:
        with serving(bare, demand_key=True) as served:
            headers = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "x-api-key": key}
            served.error("POST", CHANGE, 404, json={}, headers=headers)
    finally:
        bare.controller.registry.api_keys.remove("laptop")


def test_a_made_up_key_excuses_nothing_where_none_is_demanded(served: Served) -> None:
    headers = {"origin": "https://evil.example", "authorization": "Bearer made-up"}
    assert served.error("POST", CHANGE, 403, json={}, headers=headers)["code"] == "cross_site"


# --- CORS ---

PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,authorization,x-api-key",
}


def test_by_default_no_page_of_another_site_may_read_anything(served: Served) -> None:
    for headers in ({"origin": FRIEND}, {"origin": FRIEND, **PREFLIGHT}):
        for method in ("GET", "OPTIONS"):
            answer = served.client.request(method, "/shard/api/nodes/status/", headers=headers)
            assert not [name for name in answer.headers if name.startswith("access-control-")]
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_page_of_an_allowed_site_may_ask_and_read(friendly: Served) -> None:
    leave = friendly.client.options(CHANGE, headers={"origin": FRIEND, **PREFLIGHT})
    assert leave.status_code == 200
    assert leave.headers["access-control-allow-origin"] == FRIEND
    assert "POST" in leave.headers["access-control-allow-methods"]
    assert {"authorization", "content-type", "x-api-key"} <= set(
        leave.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    )
    answer = friendly.client.post(CHANGE, json={}, headers={"origin": FRIEND, "sec-fetch-site": "cross-site"})
    assert answer.status_code == 404
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert "access-control-allow-credentials" not in answer.headers, "cookies stay at home"
    assert "origin" in answer.headers["vary"].lower()


@pytest.mark.parametrize("origin", ["https://evil.example", "http://friend.example", f"{FRIEND}.evil.example", "null"])
def test_a_page_of_any_other_site_may_not(friendly: Served, origin: str) -> None:
    refused = friendly.client.options(CHANGE, headers={"origin": origin, **PREFLIGHT})
    assert refused.status_code == 400 and "access-control-allow-origin" not in refused.headers
    answer = friendly.client.get("/shard/api/nodes/status/", headers={"origin": origin})
    assert "access-control-allow-origin" not in answer.headers
    friendly.error("POST", CHANGE, 403, json={}, headers={"origin": origin})


def test_an_allowed_site_needs_the_key_all_the_same_and_can_read_that(bare: System) -> None:
    key = make_key(bare.controller.registry, "laptop")
    try:
        with serving(bare, demand_key=True, allowed_origins=(FRIEND,)) as served:
            assert served.client.options(CHANGE, headers={"origin": FRIEND, **PREFLIGHT}).status_code == 200
            refused = served.client.get("/shard/api/nodes/status/", headers={"origin": FRIEND})
            assert refused.status_code == 401
            assert refused.headers["access-control-allow-origin"] == FRIEND
            served.error("POST", CHANGE, 404, json={}, headers={"origin": FRIEND, "x-api-key": key})
    finally:
        bare.controller.registry.api_keys.remove("laptop")


STAINLESS = ("authorization", "content-type", "openai-beta", "x-stainless-os", "x-stainless-retry-count", "x-new-one")
"""What OpenAI's own client for browsers sends, and something that it may send one day."""


@pytest.mark.parametrize("path", ["/v1/chat/completions", CHANGE])
def test_an_allowed_site_may_send_whatever_headers_its_client_sends(friendly: Served, path: str) -> None:
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": ",".join(STAINLESS)}
    leave = friendly.client.options(path, headers={"origin": FRIEND, **wanted})
    assert leave.status_code == 200
    granted = leave.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    assert set(STAINLESS) <= set(granted)
    answer = friendly.client.post(path, json={}, headers={"origin": FRIEND, **dict.fromkeys(STAINLESS[2:], "x")})
    assert answer.status_code in (400, 404)  # it came in
    exposed = answer.headers["access-control-expose-headers"].replace(" ", "").split(",")
    assert {"x-request-id", "x-should-retry", "retry-after"} <= set(exposed)


def test_an_allowed_site_of_the_web_may_reach_into_this_network(friendly: Served) -> None:
    private = {"access-control-request-private-network": "true"}
    leave = friendly.client.options(CHANGE, headers={"origin": FRIEND, **PREFLIGHT, **private})
    assert leave.headers["access-control-allow-private-network"] == "true"


def test_any_site_may_ask_with_a_key_and_none_with_a_browsers_session(bare: System) -> None:
    key = make_key(bare.controller.registry, "laptop")
    elsewhere = {"origin": "https://anybody.example", "sec-fetch-site": "cross-site"}
    try:
        with serving(bare, demand_key=True, allowed_origins=("*",)) as served:
            leave = served.client.options(CHANGE, headers={**elsewhere, **PREFLIGHT})
            assert (leave.status_code, leave.headers["access-control-allow-origin"]) == (200, "*")
            answer = served.client.post(CHANGE, json={}, headers={**elsewhere, "authorization": f"Bearer {key}"})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (404, "*")
            assert "access-control-allow-credentials" not in answer.headers
            served.error("POST", CHANGE, 401, json={}, headers=elsewhere)

            served.client.post("/login/", json={"key": key})
            assert served.client.cookies, "the browser is logged in"
            served.error("POST", CHANGE, 404, json={})
            served.error("POST", CHANGE, 403, json={}, headers=elsewhere)
    finally:
        bare.controller.registry.api_keys.remove("laptop")


def test_no_server_opens_this_machine_to_any_page(bare: System, tmp_path: Path) -> None:
    anybody = ServerSettings(port=0, allowed_origins=("*",))
    with pytest.raises(BadInput, match=r"any web page .* could use the server"):
        ControllerSettings(server=anybody).save(tmp_path / "settings.json")
    with pytest.raises(BadInput, match="no API key is demanded"), serving(bare, allowed_origins=("*",)):
        pass
    for keyed in (
        ServerSettings(demand_key=True, allowed_origins=("*",)),
        ServerSettings(host="0.0.0.0", allowed_origins=("*",)),
    ):
        ControllerSettings(server=keyed).save(tmp_path / "settings.json")


@pytest.mark.parametrize(
    "origin",
    ["https://friend.example/", "friend.example", "https://Friend.example", "https://", "null", "https://a.example:x"],
)
def test_what_no_browser_would_send_is_refused_when_it_is_saved(origin: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no origin of a web page"):
        ControllerSettings(server=ServerSettings(allowed_origins=(FRIEND, origin))).save(tmp_path / "settings.json")


@pytest.mark.parametrize("origin", [FRIEND, "http://localhost:3000", "http://[::1]:8000", "chrome-extension://abcdef"])
def test_what_browsers_send_can_be_saved(origin: str, tmp_path: Path) -> None:
    ControllerSettings(server=ServerSettings(allowed_origins=(origin,))).save(tmp_path / "settings.json")
