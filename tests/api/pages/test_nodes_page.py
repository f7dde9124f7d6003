"""/shard/nodes/: add and remove a real agent, and see how nodes are without loading the page again."""

from __future__ import annotations

import signal

from selenium.webdriver.common.keys import Keys

from app.registry import NodeRecord
from tests.api.pages.conftest import HOSTILE, Served
from tests.api.pages.tab import Tab
from tests.worker_agent.agent_process import AgentProcess

CARD = "article[data-key='{}']"
REMOVE = f"{CARD} button"


def ids(served: Served) -> set[int]:
    return {node.id for node in served.system.controller.registry.nodes.list()}


def mark(tab: Tab) -> None:
    """Leave something that is gone when the page is loaded again."""
    tab.run("window.marked = true")


def is_marked(tab: Tab) -> bool:
    return tab.run("return window.marked === true") is True


def address_of(agent: AgentProcess) -> str:
    return agent.address.removeprefix("tcp://")


def test_a_node_is_added_and_removed_after_a_question(tab: Tab, served: Served, third_agent: AgentProcess) -> None:
    before = ids(served)
    tab.open("/shard/nodes/")
    mark(tab)
    tab.fill("[name=address]", address_of(third_agent))
    tab.fill("[name=key]", third_agent.public_key)
    tab.click("button.primary")
    tab.wait_for("The node was added.")
    tab.wait_for(HOSTILE, "#nodes")
    assert tab.value("[name=address]") == tab.value("[name=key]") == ""
    (added,) = ids(served) - before
    tab.click(REMOVE.format(added))
    question = tab.answer_question(yes=False)
    assert HOSTILE in question and address_of(third_agent) in question
    assert ids(served) == {*before, added}
    tab.click(REMOVE.format(added))
    tab.answer_question(yes=True)
    tab.wait(lambda: HOSTILE not in tab.text("#nodes"))
    assert ids(served) == before
    assert is_marked(tab) and tab.path == "/shard/nodes/"


def test_a_wrong_key_is_said_and_what_was_typed_stays(tab: Tab, served: Served, third_agent: AgentProcess) -> None:
    before = ids(served)
    tab.open("/shard/nodes/")
    tab.fill("[name=address]", address_of(third_agent))
    tab.fill("[name=key]", "x" * 40)
    tab.press(Keys.ENTER)
    told = tab.wait(lambda: tab.text("section .told.bad"))
    assert "has another key than the one given" in told
    assert (tab.value("[name=address]"), tab.value("[name=key]")) == (address_of(third_agent), "x" * 40)
    # The page goes on following the server under the error, which stays.
    tab.run("performance.clearResourceTimings()")
    tab.wait(lambda: tab.run("return performance.getEntriesByType('resource').length > 0"))
    assert tab.text("section .told.bad") == told and ids(served) == before
    # Mended, it goes through.
    tab.fill("[name=key]", third_agent.public_key)
    tab.press(Keys.ENTER)
    tab.wait_for("The node was added.")
    (added,) = ids(served) - before
    served.system.run(served.system.controller.remove_node(str(added)))


def test_a_node_that_goes_and_comes_back_is_seen_without_a_reload(
    tab: Tab, third_agent: AgentProcess, third_node: NodeRecord
) -> None:
    tab.open("/")
    mark(tab)
    row = f"#nodes tr[data-key='{third_node.id}']"
    tab.wait_for("up", f"{row} .badge")
    assert tab.text("#figures strong") == "3 of 3"
    third_agent.process.send_signal(signal.SIGSTOP)
    try:
        tab.wait_for("down", f"{row} .badge")
        tab.wait_for("2 of 3", "#figures")
        assert tab.text(f"{row} .problem") and is_marked(tab)
        tab.open("/shard/nodes/")
        mark(tab)
        # A button that has the focus does not keep its part from being up to date, and keeps the focus.
        name = f"Remove {HOSTILE} at {address_of(third_agent)}"
        tab.tab_to(name)
        assert tab.text(f"{CARD.format(third_node.id)} .badge") == "down"
    finally:
        third_agent.process.send_signal(signal.SIGCONT)
    tab.wait_for("up", f"{CARD.format(third_node.id)} .badge")
    assert not tab.all(f"{CARD.format(third_node.id)} .problem")
    assert tab.focused() == name and is_marked(tab)


def test_a_server_that_is_away_is_said_until_it_is_back(tab: Tab) -> None:
    tab.open("/shard/nodes/")
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    tab.driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    try:
        tab.wait_for("not up to date: the server cannot be reached", "#connection")
        tab.fill("[name=address]", "127.0.0.1:1")
        tab.fill("[name=key]", "x" * 40)
        tab.click("button.primary")
        tab.wait_for("The server cannot be reached.", "section .told.bad")
    finally:
        tab.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**offline, "offline": False})
    tab.wait(lambda: not tab.find("#connection").is_displayed())
    assert tab.value("[name=address]") == "127.0.0.1:1"


def test_nodes_come_and_go_without_scripts(tab: Tab, served: Served, third_agent: AgentProcess) -> None:
    before = ids(served)
    with tab.without_scripts():
        tab.open("/shard/nodes/")
        tab.fill("[name=address]", address_of(third_agent))
        tab.fill("[name=key]", third_agent.public_key)
        tab.click("button.primary")
        tab.wait_for(HOSTILE, "#nodes")
        assert tab.path == "/shard/nodes/"
        (added,) = ids(served) - before
        tab.click(REMOVE.format(added))
        tab.wait(lambda: HOSTILE not in tab.text("#nodes"))
        assert tab.path == "/shard/nodes/" and ids(served) == before
        # What goes wrong is a page.
        tab.fill("[name=address]", address_of(third_agent))
        tab.fill("[name=key]", "x" * 40)
        tab.click("button.primary")
        tab.wait_for("has another key than the one given", "[role=alert]")
        assert ids(served) == before


def test_a_node_is_removed_without_a_mouse(tab: Tab, served: Served, third_node: NodeRecord) -> None:
    tab.open("/shard/nodes/")
    tab.tab_to(f"Remove {HOSTILE} at {third_node.address.removeprefix('tcp://')}")
    tab.press(Keys.ENTER)
    tab.answer_question(yes=True)
    tab.wait(lambda: HOSTILE not in tab.text("#nodes"))
    assert third_node.id not in ids(served)
    # Who goes on with Tab is still on the page's content, not at its top.
    assert tab.run("return document.activeElement.id") == "content"
