"""/inference/: the answer comes while it is made, can be stopped, and says what went wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.keys import Keys

from app.errors import NodeError
from app.registry import RequestRecord
from tests.api.pages.conftest import Served
from tests.api.pages.tab import Tab
from tests.faults.relay import Relays

LONG = "Write a long story about a knight, a dragon and a village."


@pytest.fixture
def page(tab: Tab) -> Iterator[Tab]:
    tab.open("/inference/")
    yield tab
    if any(button.is_displayed() for button in tab.all("#stop")):
        tab.click("#stop")
        tab.wait(lambda: not tab.find("#stop").is_displayed())


def newest(served: Served) -> RequestRecord:
    registry = served.system.controller.registry
    return registry.requests.get(registry.requests.newest())


def ask(page: Tab, prompt: str, tokens: int) -> None:
    page.click("summary")
    page.fill("[name=max_tokens]", str(tokens))
    page.fill("[name=prompt]", prompt)
    page.click("#send")


def test_the_answer_grows_before_it_is_over_and_is_the_records(page: Tab, served: Served) -> None:
    ask(page, LONG, 60)
    first = page.wait(lambda: page.content("#answer"))
    more = page.wait(lambda: text if len(text := page.content("#answer")) > len(first) else "")
    assert page.text("#state") == "answering" and page.find("#stop").is_displayed()
    page.wait_for("completed", "#state")
    record = newest(served)
    assert page.content("#answer") == record.result and record.completion_tokens == 60
    assert record.result.startswith(more) and len(more) < len(record.result)
    assert "60 tokens of the answer" in page.text("#figures") and "tokens/s" in page.text("#figures")
    assert LONG in record.prompt and record.origin["via"] == "http"
    assert not page.find("#stop").is_displayed()
    page.wait_for("completed", f"#requests tr[data-key='{record.id}']")
    page.click("#record")
    page.wait_for("Where the time went")
    assert page.path == f"/shard/runs/request/{record.id}/"


def test_stop_cancels_and_keeps_what_there_is(page: Tab, served: Served) -> None:
    ask(page, LONG, 1500)
    page.wait(lambda: page.content("#answer"))
    page.click("#stop")
    page.wait_for("cancelled", "#state")
    record = newest(served)
    assert record.status == "cancelled" and record.result == page.content("#answer")
    assert 0 < record.completion_tokens < 1500
    assert not page.find("#stop").is_displayed() and page.text("#told") == ""


def test_what_the_model_cannot_do_is_said(page: Tab, served: Served) -> None:
    page.run("document.querySelector('[name=prompt]').value = 'word '.repeat(2048)")
    page.click("#send")
    page.wait_for("failed", "#state")
    error = newest(served).error
    assert error and page.text("#told") == error and "the context holds 2048" in error
    # The same page asks on.
    ask(page, "Hello", 2)
    page.wait_for("completed", "#state")
    assert page.text("#told") == "" and page.content("#answer") == newest(served).result


def test_what_is_refused_before_it_begins_is_said(page: Tab, served: Served) -> None:
    before = newest(served).id if served.system.controller.registry.requests.newest() else 0
    page.run("document.querySelector('option').value = 'a model that is gone'")
    ask(page, "Hello", 2)
    page.wait_for("There is no model named 'a model that is gone'.", "#told")
    assert not page.find("#answer-card").is_displayed()
    assert page.value("[name=prompt]") == "Hello"
    assert served.system.controller.registry.requests.newest() == before


def test_a_question_is_asked_and_stopped_without_a_mouse(page: Tab, served: Served) -> None:
    page.tab_to("Skip to the content")
    page.press(Keys.ENTER)
    page.tab_to("Model")
    page.tab_to("Prompt")
    page.press("Hello")
    page.tab_to("Settings")
    page.press(Keys.ENTER)
    page.tab_to("Longest answer (tokens)")
    page.press("1500")
    page.tab_to("Ask")
    page.press(Keys.ENTER)
    page.wait(lambda: page.content("#answer"))
    assert page.focused() == "Ask"
    page.tab_to("Stop", most=1)
    page.press(Keys.ENTER)
    page.wait_for("cancelled", "#state")
    assert page.focused() == "Ask"
    assert newest(served).parameters["max_tokens"] == 1500


def test_the_model_in_the_address_is_chosen(tab: Tab, served: Served) -> None:
    tab.open("/")
    tab.click("#deployments a.button")
    tab.wait_for("Ask a model")
    assert tab.path == "/inference/?model=smollm"
    assert tab.value("#model") == "smollm" and "not loaded" not in tab.text("#model")


def test_without_scripts_the_page_says_that_it_needs_them(tab: Tab) -> None:
    with tab.without_scripts():
        tab.open("/inference/")
        tab.wait_for("This page needs scripts")
        assert not tab.find("#send").is_enabled()


def test_an_interruption_is_told_while_it_lasts_and_beside_the_answer(page: Tab, served: Served) -> None:
    ask(page, LONG, 1500)
    page.wait(lambda: page.content("#answer"))
    running = served.system.controller.find_request(newest(served).id)
    assert running is not None
    lost = NodeError("Lost the connection to rack-2.", node="rack-2")
    served.system.call(lambda: running.interrupted(lost))
    page.wait_for("Lost the connection to rack-2. The answer goes on as soon as its layers", "#state")
    served.system.call(lambda: running.resumed("layers 2-3 went to laptop", False, ()))
    page.wait_for("rack-2 lost at token", "#notices")
    assert "layers 2-3 went to laptop" in page.text("#notices")
    assert "continued, not bit-exact" in page.text("#notices")
    page.wait_for("answering", "#state")
    page.click("#stop")
    page.wait_for("cancelled", "#state")
    assert newest(served).result == page.content("#answer")
    page.fill("[name=max_tokens]", "2")
    page.click("#send")
    page.wait_for("completed", "#state")
    assert page.text("#notices") == ""


def test_a_connection_that_breaks_is_made_anew_and_the_answer_goes_on(tab: Tab, served: Served) -> None:
    with Relays() as relays:
        relay = relays.before(served.url.replace("http", "tcp"))
        tab.open(relay.address.replace("tcp", "http") + "/inference/")
        ask(tab, LONG, 1500)
        tab.wait(lambda: tab.content("#answer"))
        running = served.system.controller.find_request(newest(served).id)
        assert running is not None
        served.system.call(lambda: running.interrupted(NodeError("Lost the connection to rack-2.", node="rack-2")))
        served.system.call(lambda: running.resumed("layers 2-3 went to laptop", True, ()))
        tab.wait_for("rack-2 lost at token", "#notices")
        with relay.cut():
            tab.wait_for("the connection was lost, trying again", "#state")
            seen = tab.content("#answer")
        tab.wait(lambda: len(tab.content("#answer")) > len(seen))
        assert len(tab.all("#notices li")) == 1, "what is told again stands there once"
        tab.wait_for("answering", "#state")
        tab.click("#stop")
        tab.wait_for("cancelled", "#state")
        assert tab.content("#answer") == newest(served).result
