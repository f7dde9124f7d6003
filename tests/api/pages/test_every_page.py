"""What holds for each page: it is all there without another host, readable, as wide as its screen, and runs no text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from selenium.webdriver.common.keys import Keys

from app.registry import DeploymentStatus, JobStatus, RequestStatus
from app.serving import Serving
from tests.api.pages.conftest import HOSTILE, Served, registered
from tests.api.pages.looks import CONTRAST, NAMES, OUTLINE, OVERFLOW
from tests.api.pages.tab import DESKTOP, PHONE, Tab
from tests.worker_agent.agent_process import AgentProcess

LONG = "a-name-without-a-single-space-in-it-" * 5
PAGES = (
    "/",
    "/inference/",
    "/shard/nodes/",
    "/shard/models/",
    "/docs",
    "/login/",
    "/shard/runs/request/{real}/",
    "/shard/runs/request/{hostile}/",
    "/shard/runs/request/{long}/",
    "/shard/runs/job/{job}/",
    "/shard/runs/deployment/{deployment}/",
)
MISSING = ("/nothing/is/here", "/shard/runs/request/999999/", f"/{LONG}")


Full = Callable[[str], str]
"""Everything that pages can show is there; gives a page's path."""


@pytest.fixture(scope="module")
def full(served: Served, third_agent: AgentProcess) -> Iterator[Full]:
    """Requests of every kind, jobs under way and over, texts that attack, names without end, a node that is away."""
    registry = served.system.controller.registry
    real = served.system.answer("smollm", "Hello", max_tokens=4)
    ids: dict[str, int | str] = {"real": real.id, "deployment": served.deployment}
    for name, prompt, model in (("hostile", HOSTILE, HOSTILE), ("long", LONG * 20, LONG), ("mute", "", "smollm")):
        request = registry.requests.add(model_name=model, prompt=prompt)
        ids[name] = request.id
        registry.requests.update(request.id, status=RequestStatus.FAILED, error=prompt or "It failed.", result=prompt)
    cancelled = registry.requests.add(model_name="smollm", prompt="Never mind")
    registry.requests.update(cancelled.id, status=RequestStatus.CANCELLED)
    for title in (HOSTILE, LONG):
        registry.jobs.add(kind="cut", title=title, model_name=title, status=JobStatus.RUNNING)
    job = registry.jobs.add(kind="add", title=HOSTILE)
    ids["job"] = job.id
    registry.jobs.update(job.id, status=JobStatus.FAILED, error=HOSTILE + LONG)
    away = registry.nodes.add(hostname=LONG, ip_address="192.0.2.1", port=7600, public_key="x" * 40)
    long = registry.deployments.add(
        model_name=LONG, plan_hash="0" * 64, serving=Serving("float32", 1, 1), status=DeploymentStatus.READY
    )
    shard = registry.shards.add(
        model_name=LONG, shard_id=0, start_layer=0, end_layer=100, deployment_id=long.id, node_id=away.id
    )
    with registered(served, third_agent):
        yield lambda page: page.format(**ids)
    registry.shards.remove(shard.id)
    registry.deployments.update(long.id, status=DeploymentStatus.UNLOADED)
    registry.nodes.remove(away.id)


@pytest.fixture(scope="module")
def page(request: pytest.FixtureRequest) -> str:
    """All tests of one page, then all of the next."""
    return str(request.param)


@pytest.fixture
def shown(tab: Tab, full: Full, page: str) -> Tab:
    """At the page, which is opened unless the test before has been looking at it, and has done nothing there."""
    if tab.run("return window.lookedAt") != page:
        tab.open(full(page))
        looked_at(tab, page)
    return tab


def looked_at(tab: Tab, page: str) -> None:
    """Whoever looks at this page next need not open it."""
    tab.run(f"window.lookedAt = {json.dumps(page)}")


def of(*pages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, indirect=True, scope="module")


def is_own(address: str, url: str) -> bool:
    return address.startswith((f"{url}/", "data:"))


@of(*PAGES)
def test_a_page_opens_without_a_word_in_the_console_and_without_another_host(page: str, tab: Tab, full: Full) -> None:
    tab.open(full(page))
    looked_at(tab, page)
    assert tab.browser.console() == []
    asked = tab.browser.requests()
    assert f"{tab.url}/static/style.css" in asked
    assert [address for address in asked if not is_own(address, tab.url)] == []


@of(*PAGES)
def test_a_page_runs_nothing_that_somebody_wrote(shown: Tab) -> None:
    tab = shown
    tab.refresh()  # what is put in later is as harmless
    assert tab.run("return typeof hacked") == "undefined"
    assert tab.all("script:not([src]), [onerror], [onload]") == []
    assert not [line for line in tab.browser.console() if "Content Security Policy" in line]


@of("/", "/inference/", "/shard/nodes/", "/shard/models/", PAGES[7], PAGES[9])
def test_texts_that_attack_are_shown_as_they_are(shown: Tab) -> None:
    assert "<script>hacked = 1</script>" in shown.text("main")


@of(*PAGES, MISSING[0])
def test_a_page_can_be_read_by_day_and_by_night(shown: Tab) -> None:
    tab = shown
    tab.run("for (const one of document.querySelectorAll('details')) one.open = true")
    grounds = set()
    for dark in (False, True):
        tab.look(dark=dark)
        grounds.add(tab.run("return getComputedStyle(document.body).backgroundColor"))
        assert tab.run(CONTRAST) == [], "dark" if dark else "light"
    assert len(grounds) == 2


@of(*PAGES, *MISSING)
def test_a_page_is_as_wide_as_its_screen(shown: Tab) -> None:
    tab = shown
    tab.run("for (const one of document.querySelectorAll('details')) one.open = true")
    for size in (DESKTOP, PHONE):
        tab.look(size=size)
        tab.wait_for_width(size[0])
        assert tab.run(OVERFLOW) == [], size


@of(*PAGES, MISSING[0])
def test_a_page_tells_what_everything_is(shown: Tab) -> None:
    assert shown.run(NAMES) == []
    assert shown.driver.title.endswith("· Shardboard")


@pytest.mark.parametrize("page", ["/", "/inference/", "/shard/nodes/", "/shard/models/"])
def test_what_has_the_focus_is_outlined(page: str, tab: Tab, full: Full) -> None:
    tab.open(page)
    seen = []
    for _ in range(12):
        tab.press(Keys.TAB)
        if tab.focused() == "body":  # past the last one
            break
        seen.append(tab.focused())
        assert tab.run(OUTLINE) is True, seen
    assert seen[0] == "Skip to the content" and len(seen) > 7


@pytest.mark.parametrize("path", MISSING)
def test_what_is_not_there_is_a_page_that_leads_back(path: str, tab: Tab) -> None:
    tab.open(path)
    assert "404" in tab.text("main")
    tab.click("main a.button")
    tab.wait_for("Deployments")
    assert tab.path == "/"


@pytest.mark.parametrize("page", ["/", "/shard/models/"])
def test_a_deployment_whose_node_is_away_says_so(tab: Tab, full: Full, page: str) -> None:
    def away() -> list[str]:
        tab.open(page)
        return [one.text for one in tab.all("#deployments .stages .down")]

    tab.wait(lambda: away() == [f"{LONG} (down)"])  # on a busy machine another may be taken for gone for a moment


def test_a_job_is_begun_followed_cancelled_and_begun_again(tab: Tab, served: Served) -> None:
    tab.open("/shard/models/")
    tab.click("#cut button")
    tab.wait_for("Begun: see Background work", "#cut")
    jobs = served.system.controller.registry.jobs
    job = tab.wait(lambda: [one for one in jobs.list() if one.title == "Cut smollm into 2 shards"])[0]
    item = f".jobs li[data-key='{job.id}']"
    tab.wait(lambda: tab.all(f"{item} button"))
    tab.click(f"{item} button")
    tab.wait_for("cancelled", f"{item} .badge")
    assert jobs.get(job.id).status is JobStatus.CANCELLED
    tab.wait(lambda: [button.text for button in tab.all(f"{item} button")] == ["Retry"])
    tab.click(f"{item} button")
    again = tab.wait(lambda: [one for one in jobs.list() if one.title == job.title and one.id > job.id])[0]
    tab.open(f"/shard/runs/job/{again.id}/")
    tab.wait(lambda: [button.text for button in tab.all("#run .tools button")] == ["Cancel"])
    tab.click("#run .tools button")
    tab.wait(lambda: [button.text for button in tab.all("#run .tools button")] == ["Retry"])
    assert jobs.get(again.id).status is JobStatus.CANCELLED
