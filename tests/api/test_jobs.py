"""Background jobs: how far they are, cancelling, listing, how many there may be, what becomes of them at the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import psutil
import pytest

from app.api import background
from app.registry import JobStatus
from tests.api.browsing import browsing
from tests.api.serving import Served, serving
from tests.e2e.conftest import System
from tests.waiting import wait_until

ADD, RECENT = "/shard/api/models/add/", "/shard/api/jobs/recent/"


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What to add for a job that does not end: the Hub that it asks takes the connection and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield {"source": "some/model"}


@pytest.fixture
def served(bare: System) -> Iterator[Served]:
    with serving(bare) as served:
        yield served


def test_jobs_of_one_kind_wait_for_each_other_and_are_cancelled(served: Served, endless: dict[str, str]) -> None:
    first = served.post(ADD, endless, 202)
    second = served.post(ADD, {"source": "demo"}, 202)
    assert (second["kind"], second["title"], second["model"]) == ("demo", "Fetch the demo model", None)
    running = served.job(first["id"], "running")
    assert running["started_at"] is not None and running["completed_at"] is None
    assert served.job(second["id"], "queued")["started_at"] is None
    assert [job["id"] for job in served.get("/")["jobs"]] == [second["id"], first["id"]], "what is under way"

    for job in (second, first):
        cancelled = served.post(f"/shard/api/jobs/cancel/{job['id']}/")
        assert (cancelled["id"], cancelled["status"]) == (job["id"], "cancelled")
        assert cancelled["error"] == "Cancelled by the user." and cancelled["completed_at"] is not None
    assert served.get("/")["jobs"] == []
    error = served.error("POST", f"/shard/api/jobs/cancel/{first['id']}/", 409, json={})
    assert f"Job {first['id']} is over: cancelled" in error["message"]


def test_a_job_that_is_cancelled_ends_its_process(served: Served, endless: dict[str, str]) -> None:
    job = served.post(ADD, endless, 202)["id"]

    def children() -> list[psutil.Process]:
        found = psutil.Process().children(recursive=True)
        return [child for child in found if "app.models.hub_process" in " ".join(child.cmdline())]

    wait_until(lambda: len(children()) == 1)
    served.post(f"/shard/api/jobs/cancel/{job}/")
    assert children() == []
    assert not (served.system.home.models / "model").exists()


def test_there_are_never_more_than_so_many(
    served: Served, endless: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "MOST_JOBS", 2)
    jobs = [served.post(ADD, endless, 202)["id"] for _ in range(2)]
    refused = served.client.post(ADD, json=endless)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert served.get(RECENT, params={"limit": 1})["jobs"][0]["id"] == jobs[1], "nothing was begun"
    for job in reversed(jobs):
        served.post(f"/shard/api/jobs/cancel/{job}/")
    third = served.post(ADD, endless, 202)["id"]
    served.post(f"/shard/api/jobs/cancel/{third}/")


def test_jobs_end_with_the_server_that_began_them_and_stay_in_the_registry(
    bare: System, endless: dict[str, str]
) -> None:
    with serving(bare) as first:
        jobs = [first.post(ADD, endless, 202)["id"] for _ in range(2)]
        first.job(jobs[0], "running")
        bare.run(first.server.stop(0.1))
    records = [bare.controller.registry.jobs.get(job) for job in jobs]
    assert [record.status for record in records] == [JobStatus.CANCELLED] * 2
    with serving(bare) as second:
        assert second.get(f"/shard/api/jobs/status/{jobs[0]}/")["status"] == "cancelled"


def test_a_job_that_was_begun_elsewhere_is_told_and_not_cancelled_here(served: Served) -> None:
    jobs = served.system.controller.registry.jobs
    record = jobs.add(kind="cut", title="Cut something", model_name="tiny", status=JobStatus.RUNNING)
    try:
        told = served.get(f"/shard/api/jobs/status/{record.id}/")
        assert (told["status"], told["title"], told["progress"]) == ("running", "Cut something", None)
        error = served.error("POST", f"/shard/api/jobs/cancel/{record.id}/", 409, json={})
        assert "not begun here" in error["message"]
        assert jobs.get(record.id).status is JobStatus.RUNNING
    finally:
        jobs.remove(record.id)


def test_jobs_are_listed_by_kind_and_state_and_in_pages(served: Served) -> None:
    jobs = served.system.controller.registry.jobs
    made = [jobs.add(kind=kind, title=f"To {kind} it", model_name="tiny") for kind in ("x", "y", "x")]
    ids = [record.id for record in made][::-1]
    try:
        assert [job["id"] for job in served.get(RECENT)["jobs"]][:3] == ids
        assert [job["id"] for job in served.get(RECENT, params={"kind": "x"})["jobs"]] == [ids[0], ids[2]]
        assert [job["id"] for job in served.get(RECENT, params={"kind": "x", "offset": 1})["jobs"]] == [ids[2]]
        jobs.update(ids[1], status=JobStatus.DONE)
        assert [job["id"] for job in served.get(RECENT, params={"kind": "y", "status": "done"})["jobs"]] == [ids[1]]
        assert served.get(RECENT, params={"kind": "y", "status": "queued"}) == {"jobs": []}
    finally:
        for id in ids:
            jobs.remove(id)
    for wrong in ({"limit": 0}, {"limit": 1001}, {"status": "lost"}, {"kind": "x" * 51}):
        served.error("GET", RECENT, 422, params=wrong)


def test_jobs_that_are_not_there_are_told(served: Served) -> None:
    assert "no job 99999" in served.error("GET", "/shard/api/jobs/status/99999/", 404)["message"]
    served.error("POST", "/shard/api/jobs/cancel/99999/", 404, json={})
    served.error("GET", "/shard/api/jobs/status/first/", 422)


def test_a_button_on_a_page_cancels_a_job(served: Served, endless: dict[str, str]) -> None:
    job = served.post(ADD, endless, 202)["id"]
    with browsing(served) as browser:
        assert f"/shard/api/jobs/cancel/{job}/" in browser.open("/shard/models/")
        answer = browser.send(f"/shard/api/jobs/cancel/{job}/", page="/shard/models/")
        assert answer.status_code == 303
    assert served.get(f"/shard/api/jobs/status/{job}/")["status"] == "cancelled"


def test_a_job_whose_work_has_a_bug_ends_and_says_so(bare: System, served: Served) -> None:
    async def work(job: background.BackgroundJob) -> background.Outcome:
        raise ZeroDivisionError("nobody foresaw this")

    async def begin() -> int:
        jobs = served.server._application.state.jobs
        record = await jobs.begin("test", "Something", "", work, background.Origin(), lane="test")
        while jobs.find(record.id) is not None:
            await asyncio.sleep(0)
        return int(record.id)

    job = served.get(f"/shard/api/jobs/status/{bare.run(begin())}/")
    assert job["status"] == "failed"
    assert job["error"] == "ZeroDivisionError: nobody foresaw this. This is a bug."
