"""A page of another site, opened in the same browser, gets nothing done here; nor does a form without its token."""

from __future__ import annotations

import re
from urllib.request import Request, urlopen

import pytest
from selenium.webdriver.common.by import By

from app.api.keys import make_key
from app.registry import NodeRecord
from tests.api.pages.conftest import Elsewhere, Served
from tests.api.pages.tab import Tab
from tests.api.serving import serving

FORM = '<form method="post" action="TARGET" {}><input name="csrf" value="x"></form>'
SUBMIT = "<script>document.forms[0].submit()</script>"
FETCH = "<script>fetch('TARGET', {{method: 'POST', {}}}).finally(() => document.title = 'over')</script>"
SIMPLE = "credentials: 'include', mode: 'no-cors', body: "
ATTACKS = {
    "a form": FORM.format("") + SUBMIT,
    "a form of plain text": FORM.format('enctype="text/plain"') + SUBMIT,
    "a form that hides where it is": f'<meta name="referrer" content="no-referrer">{FORM.format("")}{SUBMIT}',
    "a form in a frame without an origin": '<iframe sandbox="allow-forms allow-scripts" '
    f"srcdoc='{FORM.format('')}{SUBMIT}'></iframe>",
    "a fetch": FETCH.format(f"{SIMPLE}'{{}}'"),
    "a fetch without a type": FETCH.format(f"{SIMPLE}new Blob(['{{}}'])"),
    "a beacon": "<script>navigator.sendBeacon('TARGET', new Blob(['{}']))</script>",
}
# The cookie knows no ports, so the first is sent with it; the second is another site to the browser altogether.
HOSTS = ("127.0.0.1", "localhost")


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_post_that_another_site_causes_is_refused(
    attack: str, host: str, tab: Tab, served: Served, third_node: NodeRecord, elsewhere: Elsewhere
) -> None:
    tab.open("/")
    before = served.refusals()
    elsewhere.page = attack.replace("TARGET", f"{served.url}/shard/api/nodes/remove/{third_node.id}/")
    tab.open(elsewhere.url(host))
    tab.wait(lambda: served.refusals() == before + 1, "the post never came")
    assert third_node.id in {node.id for node in served.system.controller.registry.nodes.list()}


@pytest.mark.parametrize("host", HOSTS)
def test_json_of_another_site_is_not_even_sent(
    host: str, tab: Tab, served: Served, third_node: NodeRecord, elsewhere: Elsewhere
) -> None:
    tab.open("/")
    before = served.refusals()
    more = "credentials: 'include', headers: {'Content-Type': 'application/json'}, body: '{}'"
    elsewhere.page = FETCH.format(more).replace("TARGET", f"{served.url}/shard/api/nodes/remove/{third_node.id}/")
    tab.open(elsewhere.url(host))
    tab.wait(lambda: tab.driver.title == "over")
    assert any("CORS" in line for line in tab.browser.console())
    assert third_node.id in {node.id for node in served.system.controller.registry.nodes.list()}
    assert served.refusals() == before


@pytest.mark.parametrize("host", HOSTS)
def test_another_site_cannot_read_or_frame_a_page(host: str, tab: Tab, served: Served, elsewhere: Elsewhere) -> None:
    elsewhere.page = f"""<iframe src="{served.url}/shard/nodes/"></iframe><img src="{served.url}/static/icon.svg">
    <script>fetch('{served.url}/', {{credentials: 'include'}}).then(() => document.title = 'read',
    () => document.title = 'blocked')</script>"""
    tab.open(elsewhere.url(host))
    tab.wait(lambda: tab.driver.title in ("read", "blocked"))
    assert tab.driver.title == "blocked"
    tab.driver.switch_to.frame(0)
    try:
        assert not tab.driver.find_elements(By.CSS_SELECTOR, "main")
    finally:
        tab.driver.switch_to.default_content()


ASK = """<script>fetch('TARGET', {method: 'POST', body: '{"model": "none", "prompt": "x"}', headers: {
    'Content-Type': 'application/json', 'X-Stainless-OS': 'Unknown', 'OpenAI-Beta': 'x', AUTHORIZATION}})
    .then((answer) => answer.json().then((told) => document.title = `${answer.status} ${told.error.code}`),
    () => document.title = 'blocked')</script>"""


@pytest.mark.parametrize("anybody", [False, True], ids=["by its name", "as anybody with a key"])
def test_a_page_of_an_allowed_site_asks_with_the_headers_of_its_client(
    anybody: bool, tab: Tab, served: Served, elsewhere: Elsewhere
) -> None:
    page = elsewhere.url("localhost")
    registry = served.system.controller.registry
    key = make_key(registry, "page") if anybody else "none"
    options = {"demand_key": anybody, "allowed_origins": ("*",) if anybody else (page.rstrip("/"),)}
    try:
        with serving(served.system, **options) as asked:
            allowed = f"Authorization: 'Bearer {key}'"
            elsewhere.page = ASK.replace("TARGET", f"{asked.url}/v1/completions").replace("AUTHORIZATION", allowed)
            tab.open(page)
            tab.wait(lambda: tab.driver.title == "404 model_not_found", "the page never got an answer that it can read")
    finally:
        if anybody:
            registry.api_keys.remove("page")


def test_a_link_of_another_site_leaves_the_browsers_forms_valid(tab: Tab, served: Served, elsewhere: Elsewhere) -> None:
    tab.open("/shard/nodes/")
    token = tab.find("meta[name=csrf-token]").get_attribute("content")
    elsewhere.page = f'<a href="{served.url}/">A link</a>'
    tab.open(elsewhere.url("localhost"))
    tab.click("a")
    tab.wait_for("Status")
    assert tab.find("meta[name=csrf-token]").get_attribute("content") == token


def anothers_token(served: Served) -> str:
    """What the forms carry that are shown to another browser."""
    with urlopen(Request(served.url, headers={"Accept": "text/html"}), timeout=10) as answer:
        found = re.search('name="csrf-token" content="([0-9a-f]{64})"', answer.read().decode())
    assert found
    return found[1]


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
@pytest.mark.parametrize("token", ["none", "wrong", "another browser's"])
def test_a_form_without_its_token_is_refused(
    token: str, scripts: bool, tab: Tab, served: Served, third_node: NodeRecord
) -> None:
    changes = {
        "none": "field.remove()",
        "wrong": "field.value = 'x'.repeat(64)",
        "another browser's": f"field.value = '{anothers_token(served)}'",
    }
    tab.open("/shard/nodes/")
    form = f"document.querySelector(\"article[data-key='{third_node.id}'] form\")"
    # In one go: the page gives its forms a new token every other second.
    tab.run(
        f"const form = {form}, field = form.querySelector('[name=csrf]'); delete form.dataset.confirm; "
        f"{changes[token]}; form.{'requestSubmit' if scripts else 'submit'}()"
    )
    tab.wait_for("This form was not sent from a page of this server", ".told.bad" if scripts else "[role=alert]")
    assert third_node.id in {node.id for node in served.system.controller.registry.nodes.list()}
