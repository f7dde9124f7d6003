"""The start page and its neighbours: JSON for programs, pages for browsers, and the reference of all endpoints."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from app.api.application import STATIC
from tests.api.browsing import browsing
from tests.api.serving import ENDLESS, MODEL, Served, serving
from tests.e2e.conftest import System
from tests.waiting import wait_until
from worker_agent import __version__

PAGES = ("/", "/inference/", "/shard/nodes/", "/shard/models/", "/docs", "/login/")


def test_programs_are_told_how_it_all_is(api: Served) -> None:
    request = api.submit("How is it", **ENDLESS)
    told = api.get("/")
    assert told["version"] == __version__ and told["requests_under_way"] == 1 and told["jobs"] == []
    assert [node["id"] for node in told["nodes"]] == [node.id for node in api.system.nodes]
    assert told["deployments"] == api.get("/shard/api/deployments/status/")["deployments"]
    newest = told["requests"][0]
    assert (newest["id"], newest["prompt"]) == (request, "How is it") and len(told["requests"]) <= 12
    api.cancel(request)
    after = api.get("/")
    assert after["requests_under_way"] == 0 and after["requests"][0]["status"] == "cancelled"


@pytest.mark.parametrize("accept", ["application/json", "*/*", "", "application/json, text/html;q=0.9", "image/png"])
def test_whoever_does_not_ask_for_a_page_gets_json(api: Served, accept: str) -> None:
    answer = api.client.get("/", headers={"accept": accept})
    assert answer.headers["content-type"] == "application/json" and answer.json()["version"] == __version__


def test_a_browser_gets_a_page_that_says_the_same(api: Served) -> None:
    wait_until(lambda: all(node["state"] == "up" for node in api.get("/")["nodes"]))
    request = api.answer("A prompt with <b>marks</b>", max_tokens=1)
    told = api.get("/")
    with browsing(api) as browser:
        page = browser.open("/")
    shown = html.unescape(page)
    for node in told["nodes"]:
        assert node["name"] in shown
    assert MODEL in shown and f"/shard/runs/request/{request['id']}/" in page
    assert "A prompt with &lt;b&gt;marks" in page and "<b>marks" not in page


def test_the_page_that_asks_offers_the_models(api: Served, bare: System) -> None:
    with browsing(api) as browser:
        page = browser.open(f"/inference/?model={MODEL}")
        assert re.search(rf'<option value="{MODEL}" selected>', page)
        assert browser.client.get("/inference/", params={"model": "x" * 201}).status_code == 422
    with serving(bare) as served, browsing(served) as browser:
        assert "The library is empty" in browser.open("/inference/")


def test_the_page_of_the_nodes_has_a_form_to_add_one_and_one_for_each_to_remove_it(api: Served) -> None:
    with browsing(api) as browser:
        page = browser.open("/shard/nodes/")
    assert 'action="/shard/api/nodes/add/"' in page
    for node in api.system.nodes:
        assert f'action="/shard/api/nodes/remove/{node.id}/"' in page
    forms = re.findall(r"<form[^>]*method=\"post\".*?</form>", page, re.DOTALL)
    assert len(forms) >= 3 and all('name="csrf"' in form for form in forms)


def test_pages_are_pages_whatever_is_asked_for(api: Served) -> None:
    for path in PAGES[1:]:
        assert api.client.get(path).headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", PAGES)
def test_pages_need_nothing_from_elsewhere_and_no_script_of_their_own(api: Served, path: str) -> None:
    """What the Content-Security-Policy would refuse is not there to begin with."""
    with browsing(api) as browser:
        page = browser.open(path)
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]*)"', page)
        assert loaded and all(each.startswith("/static/") for each in loaded)
        for each in set(loaded):
            assert browser.client.get(each).status_code == 200, each
    assert not re.search(r"<script(?![^>]*src=)", page) and not re.search(r"\son\w+=", page)
    assert not re.search(r"<style|\sstyle=", page)


def test_files_of_the_pages_come_as_what_they_are(api: Served) -> None:
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    files = [file for file in STATIC.iterdir() if file.is_file()]
    assert {file.suffix for file in files} >= kinds.keys()
    for file in files:
        answer = api.client.get(f"/static/{file.name}")
        assert answer.status_code == 200 and answer.content == file.read_bytes()
        assert answer.headers["content-type"].startswith(kinds[file.suffix]), file.name
        again = api.client.get(f"/static/{file.name}", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304, "asked for anew each time, sent only when it has changed"
    assert api.client.get("/static/").status_code == 404, "no listing"


def test_the_reference_has_every_endpoint_of_the_document(api: Served) -> None:
    document = api.get("/openapi.json")
    assert document["openapi"].startswith("3.") and document["info"]["version"] == __version__
    with browsing(api) as browser:
        page = html.unescape(browser.open("/docs"))
    for path, item in document["paths"].items():
        for operation in item.values():
            assert path in page and operation["summary"] in page
    for name in ("num_shards", "temperature", "x-api-key"):
        assert name in page


def test_the_document_is_at_home_where_the_readme_says(api: Served) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for path in ("/inference/", "/shard/nodes/", "/metrics", "/docs"):
        assert f"`{path}`" in readme and api.client.get(path).status_code == 200
