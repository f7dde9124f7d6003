"""Forms of the pages: each carries a token of the page it is on, which no other site and no other visitor has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute

from app.api.application import make_application
from app.api.keys import make_key
from app.api.security import check_form
from app.controller_settings import ServerSettings
from tests.api.browsing import Browser, browsing
from tests.api.serving import Served, serving
from tests.e2e.conftest import System

CHANGE = "/shard/api/nodes/remove/999/"
"""Answered with 404 when the form is accepted: there is no such node."""
ADD = "/shard/api/nodes/add/"


@pytest.fixture(scope="module")
def served(bare: System) -> Iterator[Served]:
    with serving(bare) as served:
        yield served


@pytest.fixture
def browser(served: Served) -> Iterator[Browser]:
    with browsing(served) as browser:
        yield browser


def code(served: Served, browser: Browser, **form: object) -> tuple[int, str]:
    """How a form is answered, to a visitor that would rather have JSON."""
    answer = browser.client.post(CHANGE, headers={"accept": "application/json"}, **form)  # type: ignore[arg-type]
    return answer.status_code, answer.json()["error"]["code"]


REFUSED = (403, "no_token")
ACCEPTED = (404, "registry")


def test_a_form_with_the_token_of_its_page_is_accepted(served: Served, browser: Browser) -> None:
    for page in ("/login/", "/shard/nodes/"):
        assert code(served, browser, data={"csrf": browser.token(page)}) == ACCEPTED


def test_a_form_without_a_token_or_with_a_wrong_one_is_refused(served: Served, browser: Browser) -> None:
    token = browser.token()
    assert code(served, browser, data={"other": "x"}) == REFUSED
    for wrong in ("", "0" * 64, token[:-1], token.upper(), f" {token}", "\u00e9"):
        assert code(served, browser, data={"csrf": wrong}) == REFUSED
    assert code(served, browser, data={"csrf": [token, "0" * 64]}) == REFUSED, "the last one counts"


def test_the_token_of_another_visitor_is_refused(served: Served, browser: Browser) -> None:
    with browsing(served) as other:
        token = other.token()
        assert browser.token() != token
        assert code(served, browser, data={"csrf": token}) == REFUSED
        assert code(served, other, data={"csrf": token}) == ACCEPTED


def test_a_token_without_its_cookie_is_refused(served: Served, browser: Browser) -> None:
    token = browser.token()
    browser.client.cookies.clear()
    assert code(served, browser, data={"csrf": token}) == REFUSED


def test_a_cookie_that_somebody_planted_brings_no_token(served: Served, browser: Browser) -> None:
    """Who chooses the cookie still cannot make the token that belongs to it."""
    (name,) = (browser.open("/login/"), list(browser.cookies))[1]
    with browsing(served) as other:
        other.client.cookies.set(name, "planted", domain="127.0.0.1")
        assert code(served, other, data={"csrf": "planted"}) == REFUSED


def test_the_token_of_another_server_is_refused(served: Served, browser: Browser, bare: System) -> None:
    with serving(bare) as second, browsing(second) as other:
        other.token()
        (cookie,) = other.cookies.values()
        (name,) = (browser.open("/login/"), list(browser.cookies))[1]
        browser.client.cookies.set(name, cookie, domain="127.0.0.1")
        assert code(served, browser, data={"csrf": other.token()}) == REFUSED


def test_the_token_may_come_in_a_header(served: Served, browser: Browser) -> None:
    token = browser.token()
    accept = {"accept": "application/json"}
    answer = browser.client.post(CHANGE, data={"x": "y"}, headers={**accept, "x-csrf-token": token})
    assert answer.status_code == 422, "it came in, and has a field that nobody knows"
    answer = browser.client.post(CHANGE, data={"csrf": token}, headers={**accept, "x-csrf-token": "wrong"})
    assert answer.status_code == 403


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"])
@pytest.mark.parametrize("spelling", ["{}", "{}; charset=utf-8", " {}", "{};boundary=x"])
def test_every_kind_of_body_that_any_page_can_send_needs_a_token(served: Served, kind: str, spelling: str) -> None:
    for path in (CHANGE, "/shard/api/inference/submit/", "/v1/completions", "/logout/"):
        for written in (spelling.format(kind), spelling.format(kind.upper())):
            answer = served.client.post(path, content=b'{"model": "x"}', headers={"content-type": written.strip()})
            assert answer.status_code in (400, 403), (path, written)
            if answer.status_code == 400:  # this one cannot be read at all
                assert "multipart" in kind and "multipart" in answer.text


def test_a_body_without_a_kind_is_no_way_around_it(served: Served) -> None:
    assert served.error("POST", CHANGE, 415, content=b"{}")["code"] == "media_type"


def test_a_program_that_sends_json_or_brings_a_key_needs_no_token(bare: System, served: Served) -> None:
    served.error("POST", CHANGE, 404, json={})
    key = make_key(bare.controller.registry, "laptop")
    try:
        served.error("POST", CHANGE, 404, headers={"x-api-key": key, "content-type": "text/plain"})
    finally:
        bare.controller.registry.api_keys.remove("laptop")


def test_the_cookie_is_for_this_server_alone(served: Served, browser: Browser) -> None:
    response = browser.client.get("/login/")
    cookie = response.headers["set-cookie"].lower()
    port = served.host.rpartition(":")[2]
    assert cookie.startswith(f"shardboard-{port}="), "two servers on one machine must not take each other's"
    assert "httponly" in cookie and ("samesite=lax" in cookie or "samesite=strict" in cookie) and "path=/" in cookie
    assert "domain=" not in cookie and "secure" not in cookie
    assert "set-cookie" not in browser.client.get("/login/").headers, "the browser has it already"


def test_programs_get_no_cookie(served: Served) -> None:
    assert "set-cookie" not in served.client.get("/").headers


def test_a_browser_is_led_back_to_the_page_and_told_errors_on_one(served: Served, browser: Browser) -> None:
    refused = browser.client.post(ADD, data={"address": "x", "key": "y"})
    assert refused.status_code == 403 and "not sent from a page of this server" in refused.text
    wrong = browser.send(ADD, page="/shard/nodes/", address="nowhere", key="short")
    assert wrong.status_code == 400
    assert wrong.headers["content-type"] == "text/html; charset=utf-8"
    missing = browser.send(ADD, page="/shard/nodes/", address="  ", key="short")
    assert missing.status_code == 422 and "address: Field required" in missing.text


def test_what_a_form_brings_is_shown_as_text(served: Served, browser: Browser) -> None:
    answer = browser.send(ADD, page="/shard/nodes/", address="<script>alert(1)</script>", key="k" * 40)
    assert answer.status_code == 400
    assert "<script>alert" not in answer.text and "&lt;script&gt;" in answer.text


def test_a_form_has_no_room_for_files_and_no_more_fields_than_any_form_has(served: Served, browser: Browser) -> None:
    token = browser.token()
    answer = browser.client.post(CHANGE, data={"csrf": token}, files={"file": ("x.bin", b"x" * 1000)})
    assert answer.status_code == 400
    answer = browser.client.post(CHANGE, data={f"field{number}": "x" for number in range(101)})
    assert answer.status_code == 400


def test_every_route_there_is_asks_where_a_form_comes_from(bare: System) -> None:
    application = make_application(bare.controller, ServerSettings(port=0))
    routes = [route for route in application.routes if isinstance(route, APIRoute)]
    assert len(routes) > 50
    for route in routes:
        assert check_form in [each.call for each in route.dependant.dependencies], route.path
