"""/login/: showing a key to a server that demands one, and leaving again."""

from __future__ import annotations

import socket

import pytest
from selenium.webdriver.common.keys import Keys

from app.api.keys import make_key
from tests.api.pages.conftest import Elsewhere, Guarded, Served
from tests.api.pages.tab import Tab
from tests.runs.chromium import Browser


@pytest.fixture
def visitor(tab: Tab, browser: Browser, guarded: Guarded) -> Tab:
    """Before the server that demands a key."""
    return Tab(browser, guarded.url)


def log_in(visitor: Tab, key: str) -> None:
    visitor.fill("[name=key]", key)
    visitor.press(Keys.ENTER)


def test_a_key_opens_the_page_that_was_asked_for(visitor: Tab, guarded: Guarded) -> None:
    visitor.open("/shard/nodes/")
    visitor.wait_for("This server demands an API key.")
    assert visitor.path == "/login/?next=/shard/nodes/"
    assert visitor.focused() == "API key"
    log_in(visitor, "sb-wrong")
    visitor.wait_for("The API key is not valid here.", "[role=alert]")
    assert guarded.key not in visitor.driver.page_source
    log_in(visitor, guarded.key)
    visitor.wait_for("Add a node")
    assert visitor.path == "/shard/nodes/"
    (cookie,) = visitor.driver.get_cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] in ("Strict", "Lax") and guarded.key not in str(cookie)
    # Other pages open, too, and their live parts follow.
    visitor.open("/")
    visitor.wait_for("Deployments")
    visitor.wait(
        lambda: visitor.run("return performance.getEntriesByType('resource').at(-1).name") == f"{visitor.url}/"
    )
    assert not visitor.find("#connection").is_displayed()


def test_log_out_closes_the_pages_again(visitor: Tab, guarded: Guarded) -> None:
    visitor.open("/login/")
    log_in(visitor, guarded.key)
    visitor.wait_for("Deployments")
    session = visitor.driver.get_cookies()[0]
    visitor.click("header button")
    visitor.wait_for("This server demands an API key.")
    for cookie in (None, session):  # what the browser kept of the session opens nothing either
        if cookie is not None:
            visitor.driver.delete_all_cookies()
            visitor.driver.add_cookie({"name": cookie["name"], "value": cookie["value"]})
        visitor.open("/")
        visitor.wait_for("This server demands an API key.")


def test_keys_work_without_scripts(visitor: Tab, guarded: Guarded) -> None:
    with visitor.without_scripts():
        visitor.open("/")
        log_in(visitor, guarded.key)
        visitor.wait_for("Deployments")
        visitor.click("header button")
        visitor.wait_for("This server demands an API key.")


def test_a_key_that_is_removed_ends_its_session_where_it_is(visitor: Tab, served: Served) -> None:
    registry = served.system.controller.registry
    key = make_key(registry, "borrowed")
    visitor.open("/")
    log_in(visitor, key)
    visitor.wait_for("Deployments")
    registry.api_keys.remove("borrowed")
    visitor.wait_for("This server demands an API key.")
    assert visitor.path == "/login/?next=/"


def test_who_logged_in_is_in_the_record(visitor: Tab, served: Served, guarded: Guarded) -> None:
    visitor.open("/inference/")
    log_in(visitor, guarded.key)
    visitor.wait_for("Ask a model")
    visitor.fill("[name=prompt]", "Hello")
    visitor.click("summary")
    visitor.fill("[name=max_tokens]", "2")
    visitor.click("#send")
    visitor.wait_for("completed", "#state")
    visitor.click("#record")
    visitor.wait_for("laptop, over HTTP")


def test_a_link_of_another_site_does_not_end_the_session(visitor: Tab, guarded: Guarded, elsewhere: Elsewhere) -> None:
    visitor.open("/")
    log_in(visitor, guarded.key)
    visitor.wait_for("Deployments")
    elsewhere.page = f'<a href="{guarded.url}/shard/nodes/">A link</a>'
    visitor.open(elsewhere.url("localhost"))
    visitor.click("a")
    visitor.wait_for("Add a node")
    visitor.open("/")
    visitor.wait_for("Deployments")


def test_the_way_after_the_key_never_leads_elsewhere(visitor: Tab, guarded: Guarded, elsewhere: Elsewhere) -> None:
    visitor.open(f"/login/?next={elsewhere.url('localhost')}")
    log_in(visitor, guarded.key)
    visitor.wait_for("Deployments")
    assert visitor.path == "/"


def test_pages_open_by_the_machines_own_address(tab: Tab, browser: Browser, guarded: Guarded) -> None:
    """Not a loopback address: browsers trust these less."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        address = probe.getsockname()[0]
    visitor = Tab(browser, guarded.url.replace("127.0.0.1", address))
    visitor.open("/")
    log_in(visitor, guarded.key)
    visitor.wait_for("Deployments")
    visitor.click("header button")
    visitor.wait_for("This server demands an API key.")
    # Unencrypted, browsers do not keep the page's group apart, and say so; nothing else.
    assert [line for line in browser.console() if "Cross-Origin-Opener-Policy" not in line] == []
