"""Runs over REST: one with where its time went, and downloads in every format."""

from __future__ import annotations

import csv
import gc
import html
import io
import json
import logging
import socket
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from msgspec.structs import replace

from app.api.download import MOST_DOWNLOADS
from app.controller_settings import RecordSettings
from app.registry import RequestStatus
from tests.api.browsing import browsing
from tests.api.serving import ENDLESS, MODEL, Served, serving
from tests.e2e.conftest import System
from tests.waiting import wait_until

EXPORT = "/shard/api/runs/export/"
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schemas" / "run-1.json").read_text(encoding="utf-8"))
TYPES = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "chrome": "application/json",
    "bundle": "application/zip",
}
SUFFIXES = {"jsonl": ".jsonl", "csv": ".csv", "html": ".html", "chrome": ".trace.json", "bundle": ".zip"}


@pytest.fixture(scope="module")
def answered(api: Served) -> Any:
    return api.answer("The quick brown fox", max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def served(bare: System) -> Iterator[Served]:
    with serving(bare) as served:
        yield served


def download(served: Served, body: dict[str, Any]) -> bytes:
    response = served.client.post(EXPORT, json=body)
    assert response.status_code == 200, response.text
    return response.content


def exported(served: Served, **body: Any) -> list[Any]:
    return [json.loads(line) for line in download(served, body).splitlines()]


# --- one run ---


def test_a_request_is_told_with_where_its_time_went(api: Served, answered: Any) -> None:
    told = api.get(f"/shard/api/runs/request/{answered['id']}/")
    run = told["run"]
    jsonschema.validate(run, SCHEMA)
    assert (run["kind"], run["id"], run["status"]) == ("request", str(answered["id"]), "completed")
    assert run["request"]["result"] == answered["text"] and run["request"]["token_ids"] == answered["token_ids"]
    assert len(run["trace"]["tokens"]) == 8 and len(run["trace"]["plan"]["stages"]) == 2
    assert told["bottleneck"]["sentence"]
    assert told["shares"] and told["bars"] is None, "bars only when asked for"
    bars = api.get(f"/shard/api/runs/request/{answered['id']}/", params={"bars": True})["bars"]
    assert len(bars) == 8


def test_a_request_that_runs_is_told_as_far_as_it_has_come(api: Served) -> None:
    request = api.submit(**ENDLESS)
    path = f"/shard/api/runs/request/{request}/"
    wait_until(lambda: bool(api.get(path)["run"]["trace"]["tokens"]))
    first = api.get(path)
    wait_until(lambda: len(api.get(path)["run"]["trace"]["tokens"]) > len(first["run"]["trace"]["tokens"]))
    assert first["run"]["completed_at"] is None and first["shares"] is not None
    told = first["run"]["request"]
    assert len(told["token_ids"]) == told["completion_tokens"] == len(first["run"]["trace"]["tokens"])
    assert told["result"], "the answer so far, on its page as well"
    api.cancel(request)


def test_a_request_that_never_ran_has_no_shares(api: Served) -> None:
    body = {"model": MODEL, "token_ids": [100_000]}
    request = api.finished(api.post("/shard/api/inference/submit/", body, 202)["id"])
    told = api.get(f"/shard/api/runs/request/{request['id']}/", params={"bars": True})
    assert (told["shares"], told["bars"], told["bottleneck"]) == (None, None, None)
    assert told["run"]["error"] == request["error"]


def test_deployments_and_jobs_are_runs_too(api: Served, tmp_path: Path) -> None:
    (deployment,) = api.get("/shard/api/deployments/status/")["deployments"]
    told = api.get(f"/shard/api/runs/deployment/{deployment['id']}/")
    assert told["run"]["trace"]["phases"] and told["shares"] is None
    job = api.job(api.post("/shard/api/models/add/", {"source": str(tmp_path)}, 202)["id"])
    told = api.get(f"/shard/api/runs/job/{job['id']}/")
    assert (told["run"]["job"]["title"], told["run"]["status"]) == (job["title"], "failed")
    for run in (told["run"], api.get(f"/shard/api/runs/deployment/{deployment['id']}/")["run"]):
        jsonschema.validate(run, SCHEMA)


def test_every_run_has_a_page(api: Served, answered: Any) -> None:
    (deployment,) = api.get("/shard/api/deployments/status/")["deployments"]
    with browsing(api) as browser:
        page = browser.open(f"/shard/runs/request/{answered['id']}/")
        assert api.get(f"/shard/api/runs/request/{answered['id']}/")["bottleneck"]["sentence"] in html.unescape(page)
        assert MODEL in browser.open(f"/shard/runs/deployment/{deployment['id']}/")
        browser.open("/shard/runs/request/999999/", 404)
        browser.open("/shard/runs/nothing/1/", 422)


def test_what_the_settings_do_not_keep_is_forgotten_when_asked_for(served: Served) -> None:
    controller = served.system.controller
    registry, settings = controller.registry, controller.settings
    nothing = {"requests": 0, "jobs": 0, "events": 0, "traces": 0}
    request = registry.requests.add(model_name=MODEL, prompt="An old question")
    registry.requests.update(request.id, status=RequestStatus.CANCELLED)
    assert served.post("/shard/api/runs/prune/") == nothing
    assert served.get(f"/shard/api/runs/request/{request.id}/")["run"]["status"] == "cancelled"
    served.system.run(controller.change_settings(replace(settings, records=RecordSettings(keep_bytes=1))))
    try:
        forgotten = served.post("/shard/api/runs/prune/")  # others may have left traces here
        assert forgotten["requests"] >= 1
    finally:
        served.system.run(controller.change_settings(settings))
    served.error("GET", f"/shard/api/runs/request/{request.id}/", 404)
    event = registry.events.list(source="records")[0]
    assert event.message.startswith(f"Forgotten: {forgotten['requests']} request")
    assert "; asked for by " in event.message and "over HTTP: " in event.message


def test_runs_that_are_not_there_are_told(api: Served) -> None:
    for kind, id in (("request", "999999"), ("job", "999999"), ("deployment", "nobody"), ("request", "first")):
        assert f"no {kind}" in api.error("GET", f"/shard/api/runs/{kind}/{id}/", 404)["message"]
        api.error("POST", EXPORT, 404, json={"kind": kind, "ids": [id]})
    api.error("GET", "/shard/api/runs/model/1/", 422)


# --- downloads ---


@pytest.mark.parametrize("format", sorted(TYPES))
def test_a_request_is_downloaded_in_every_format(api: Served, answered: Any, format: str) -> None:
    got = api.client.get(EXPORT, params={"format": format, "ids": str(answered["id"])})
    assert (got.status_code, got.headers["content-type"]) == (200, TYPES[format])
    kind = "incident" if format == "bundle" else "shardboard-request"
    name = f"{kind}-{answered['id']}{SUFFIXES[format]}"
    assert got.headers["content-disposition"] == f'attachment; filename="{name}"'
    posted = api.client.post(EXPORT, json={"format": format, "ids": [str(answered["id"])]})
    assert posted.headers["content-type"] == TYPES[format]
    check = {"jsonl": check_jsonl, "csv": check_csv, "html": check_html, "chrome": check_chrome, "bundle": check_bundle}
    for content in (got.content, posted.content):
        check[format](content, answered)


def check_jsonl(content: bytes, answered: Any) -> None:
    (line,) = content.splitlines()
    run = json.loads(line)
    jsonschema.validate(run, SCHEMA)
    assert run["id"] == str(answered["id"]) and run["request"]["result"] == answered["text"]


def check_csv(content: bytes, answered: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    tokens = [row["token_id"] for row in rows if row["part"] == "token"]
    assert tokens == [str(token) for token in answered["token_ids"]]


def check_html(content: bytes, answered: Any) -> None:
    page = content.decode()
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert "The quick brown fox" in page and "<script" not in page


def check_chrome(content: bytes, answered: Any) -> None:
    events = json.loads(content)["traceEvents"]
    assert len([event for event in events if (event["ph"], event.get("cat")) == ("X", "token")]) == 8


def check_bundle(content: bytes, answered: Any) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        assert bundle.testzip() is None
        run = json.loads(bundle.read("run.json"))
        assert run["request"]["token_ids"] == answered["token_ids"]
        assert len([name for name in bundle.namelist() if name.startswith("logs/")]) == 3


def test_what_is_exported_is_chosen(api: Served) -> None:
    before = datetime.now(UTC)
    ids = [str(api.answer(f"Export {number}", max_tokens=1)["id"]) for number in range(3)]
    after = datetime.now(UTC)
    assert [run["id"] for run in exported(api, since=before.isoformat())] == ids[::-1], "the newest first"
    assert exported(api, since=before.isoformat(), until=before.isoformat()) == []
    assert exported(api, since=after.isoformat()) == []
    assert [run["id"] for run in exported(api, since=before.isoformat(), limit=2)] == ids[:0:-1]
    assert [run["id"] for run in exported(api, since=before.isoformat(), model=MODEL)] == ids[::-1]
    assert exported(api, model="nobody") == []
    assert [run["id"] for run in exported(api, ids=[ids[1], ids[0], ids[1]])] == [ids[1], ids[0], ids[1]]
    assert exported(api, ids=[]) == []
    got = api.client.get(EXPORT, params={"ids": f"{ids[2]}, {ids[0]} ,", "kind": "request"})
    assert [json.loads(line)["id"] for line in got.text.splitlines()] == [ids[2], ids[0]]
    assert got.headers["content-disposition"] == 'attachment; filename="shardboard-requests.jsonl"'


def test_deployments_and_jobs_are_exported_too(api: Served, tmp_path: Path) -> None:
    job = api.job(api.post("/shard/api/models/add/", {"source": str(tmp_path)}, 202)["id"])
    assert exported(api, kind="job", limit=1)[0]["id"] == str(job["id"])
    deployments = exported(api, kind="deployment")
    assert {run["kind"] for run in deployments} == {"deployment"} and deployments
    content = api.client.get(EXPORT, params={"kind": "deployment", "format": "csv"}).text
    assert any(row["part"] == "phase" for row in csv.DictReader(io.StringIO(content)))


def test_an_export_of_nothing_is_a_whole_file(served: Served) -> None:
    assert download(served, {"kind": "deployment"}) == b""
    assert json.loads(download(served, {"kind": "deployment", "format": "chrome"}))["traceEvents"] == []
    assert download(served, {"kind": "deployment", "format": "csv"}).startswith(b"kind,run,")
    assert download(served, {"kind": "deployment", "format": "html"}).rstrip().endswith(b"</html>")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"format": "bundle"}, 400),
        ({"format": "bundle", "ids": ["1", "2"]}, 400),
        ({"format": "bundle", "ids": []}, 400),
        ({"format": "bundle", "kind": "job", "ids": ["1"]}, 400),
        ({"format": "bundle", "ids": ["999999"]}, 404),
        ({"format": "xlsx"}, 422),
        ({"kind": "model"}, 422),
        ({"limit": 0}, 422),
        ({"since": "soon"}, 422),
        ({"ids": "1"}, 422),
        ({"ids": ["1"] * 10_001}, 422),
        ({"id": ["1"]}, 422),
    ],
)
def test_what_cannot_be_exported_is_told_instead_of_a_file(api: Served, body: dict[str, Any], status: int) -> None:
    api.error("POST", EXPORT, status, json=body)
    if "ids" not in body and "id" not in body:
        api.error("GET", EXPORT, status, params=body)


def test_the_form_of_a_page_downloads(api: Served, answered: Any) -> None:
    with browsing(api) as browser:
        answer = browser.send(EXPORT, page="/shard/nodes/", format="csv", ids=f"{answered['id']}", model="")
    assert (answer.status_code, answer.headers["content-type"]) == (200, TYPES["csv"])
    check_csv(answer.content, answered)


@pytest.fixture
def narrow(served: Served) -> Iterator[httpx.Client]:
    """A client whose connections hold next to nothing that is not read."""
    options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
    with httpx.Client(base_url=served.url, transport=httpx.HTTPTransport(socket_options=options)) as client:
        yield client


@pytest.fixture
def large(served: Served) -> dict[str, Any]:
    """What to ask for to get more than a narrow connection holds: a request with a long prompt, several times over."""
    long = served.system.controller.registry.requests.add(model_name=MODEL, prompt="x" * 3_000_000)
    return {"ids": [str(long.id)] * 8}


def test_a_reader_that_leaves_lets_the_writer_go(
    served: Served, narrow: httpx.Client, large: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As many times as there are threads, and once more: none of them is lost."""
    downloads = served.server._application.state.downloads
    gc.collect()
    caplog.clear()  # of what other tests have left behind
    for _ in range(MOST_DOWNLOADS + 1):
        with narrow.stream("POST", EXPORT, json=large) as response:
            pieces = response.iter_bytes()
            next(pieces)
            assert downloads._under_way == 1
        wait_until(lambda: downloads._under_way == 0)
    assert len(download(served, large)) > 8 * 3_000_000
    gc.collect()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_more_downloads_than_there_are_threads_are_told_to_come_again(
    served: Served, narrow: httpx.Client, large: dict[str, Any]
) -> None:
    with ExitStack() as held:
        for _ in range(MOST_DOWNLOADS):
            held.enter_context(narrow.stream("POST", EXPORT, json=large))
        refused = served.client.post(EXPORT, json=large)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert served.get("/")["nodes"] == [], "everything else is answered"
    wait_until(lambda: served.client.get(EXPORT, params={"kind": "job"}).status_code == 200)


def test_an_export_that_cannot_begin_is_an_error_and_frees_its_thread(served: Served) -> None:
    for _ in range(MOST_DOWNLOADS + 1):
        served.error("GET", EXPORT, 404, params={"ids": "999999"})
    assert served.client.get(EXPORT, params={"kind": "job"}).status_code == 200
