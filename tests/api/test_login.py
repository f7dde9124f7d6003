"""Logging in with a key in a browser, what a session may do, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.api import visitors
from app.api.keys import make_key
from app.api.visitors import Sessions
from tests.api.browsing import Browser, browsing
from tests.api.serving import Served, serving
from tests.e2e.conftest import System

CHANGE = "/shard/api/nodes/remove/999/"


@pytest.fixture
def browser(locked: Served) -> Iterator[Browser]:
    with browsing(locked) as browser:
        yield browser


def test_a_browser_without_a_session_is_led_to_the_login(browser: Browser) -> None:
    for path in ("/", "/shard/nodes/", "/docs", "/nothing/here"):
        answer = browser.client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/login/?next={path}")
    assert "demands an API key" in browser.open("/login/?next=/docs")
    refused = browser.client.post(CHANGE, json={})
    assert refused.status_code == 401 and "location" not in refused.headers, "what was to be sent would be lost"


def test_the_right_key_opens_the_pages(browser: Browser, key: str) -> None:
    answer = browser.log_in(f" {key} ", "/shard/nodes/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/shard/nodes/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and ("samesite=lax" in cookie or "samesite=strict" in cookie)
    assert "Log out" in browser.open("/shard/nodes/")
    assert browser.client.get("/shard/api/nodes/status/").json() == {"nodes": []}


def test_a_wrong_key_opens_nothing_and_is_told(browser: Browser, key: str) -> None:
    for wrong in ("sb-wrong", key[:-1], " ", "<b>"):
        answer = browser.log_in(wrong)
        assert answer.status_code in (401, 422)
        assert "<b>" not in answer.text and key not in answer.text
    assert "not valid here" in browser.log_in("sb-wrong").text
    assert browser.client.get("/").status_code == 303


def test_the_form_of_the_login_carries_a_token_too(browser: Browser, key: str) -> None:
    """Else a page of another site could log a visitor in under a key of its own, and read what they ask."""
    browser.open("/login/")
    assert browser.client.post("/login/", data={"key": key}).status_code == 403
    assert (
        browser.client.post("/login/", json={"key": key}, headers={"origin": "http://evil.example"}).status_code == 403
    )
    assert browser.client.get("/").status_code == 303


def test_logging_in_changes_the_cookie(browser: Browser, key: str) -> None:
    """A cookie that somebody planted before is no session afterwards."""
    token = browser.token()
    before = browser.cookies
    browser.log_in(key)
    after = browser.cookies
    assert before.keys() == after.keys() and before != after
    answer = browser.client.post(CHANGE, data={"csrf": token})
    assert answer.status_code == 403, "the token of before belongs to the cookie of before"


def test_a_session_alone_changes_nothing(browser: Browser, key: str) -> None:
    browser.log_in(key)
    assert browser.client.post(CHANGE, data={}, headers={"content-type": "text/plain"}).status_code == 403
    elsewhere = {"origin": "https://evil.example"}
    assert browser.client.post(CHANGE, json={}, headers=elsewhere).status_code == 403
    assert browser.send(CHANGE, page="/shard/nodes/").status_code == 404, "with the token it gets there"


def test_logging_out_ends_the_session(locked: Served, browser: Browser, key: str) -> None:
    browser.log_in(key)
    cookies = browser.cookies
    answer = browser.send("/logout/", page="/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login/")
    assert browser.cookies == {}, "the browser is told to forget it"
    with browsing(locked) as thief:
        thief.client.cookies.update(cookies)
        assert thief.client.get("/").status_code == 303


def test_a_session_ends_with_its_key(bare: System, browser: Browser, key: str) -> None:
    browser.log_in(key)
    make_key(bare.controller.registry, "other")
    try:
        assert browser.client.get("/").status_code == 200
        bare.controller.registry.api_keys.remove("laptop")
        assert browser.client.get("/").status_code == 303
        make_key(bare.controller.registry, "laptop")
        assert browser.client.get("/").status_code == 303, "another key of the same name is another key"
    finally:
        bare.controller.registry.api_keys.remove("other")


def test_a_session_counts_on_its_own_server_only(bare: System, browser: Browser, key: str) -> None:
    browser.log_in(key)
    (cookie,) = browser.cookies.values()
    with serving(bare, demand_key=True) as second, browsing(second) as other:
        other.open("/login/")
        (name,) = other.cookies
        other.client.cookies.set(name, cookie, domain="127.0.0.1")
        assert other.client.get("/").status_code == 303


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "/\r\nLocation: https://evil.example",
        "evil.example",
        " //evil.example",
        "",
    ],
)
def test_the_login_leads_nowhere_else(browser: Browser, key: str, target: str) -> None:
    page = browser.client.get("/login/", params={"next": target}).text
    assert 'name="next" value="/"' in page
    answer = browser.log_in(key, target)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_path_of_the_server_with_its_question_is_kept(browser: Browser, key: str) -> None:
    assert browser.log_in(key, "/inference/?model=tiny").headers["location"] == "/inference/?model=tiny"


def test_where_no_key_is_demanded_one_may_log_in_all_the_same(bare: System, key: str) -> None:
    with serving(bare) as served, browsing(served) as browser:
        assert "demands no key" in browser.open("/login/")
        assert browser.log_in(key).status_code == 303
        assert "Log out" in browser.open("/")


# --- sessions as they are kept ---


def test_sessions_end_when_they_were_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions()
    cookie = sessions.log_in("laptop", "digest")
    found = sessions.find(cookie)
    assert found is not None and (found.key_name, found.digest) == ("laptop", "digest")
    monkeypatch.setattr(visitors, "SESSION_SECONDS", -1.0)
    assert sessions.find(cookie) is None
    assert sessions.find(None) is None and sessions.find("") is None


def test_there_are_never_more_than_so_many_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "MOST_SESSIONS", 2)
    sessions = Sessions()
    first, second = sessions.log_in("a", "1"), sessions.log_in("b", "2")
    sessions.find(first)  # the one that was used last stays
    third = sessions.log_in("c", "3")
    assert [sessions.find(cookie) is not None for cookie in (first, second, third)] == [True, False, True]
