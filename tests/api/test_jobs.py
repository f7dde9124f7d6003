"""Background jobs: how far they are, cancelling, listing, how many there may be, what becomes of them at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import psutil
import pytest

from app.api.routes import jobs as routes
from app.children.work import JobProgress, NodeProgress
from app.jobs.job import Job, Means, Outcome
from app.jobs.works import AddWork
from app.registry import JobStatus
from app.runs.trace import Origin
from tests.api.browsing import browsing
from tests.api.serving import Served, serving
from tests.e2e.conftest import System
from tests.jobs.endless import silent_hub
from tests.waiting import wait_until

ADD, RECENT = "/shard/api/models/add/", "/shard/api/jobs/recent/"


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What to add for a job that does not end."""
    with silent_hub(monkeypatch) as source:
        yield {"source": source}


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
        return [child for child in psutil.Process().children(recursive=True) if works(child)]

    def works(child: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):  # also what other tests left uncollected
            return "app.models.hub_process" in " ".join(child.cmdline())
        return False

    wait_until(lambda: len(children()) == 1)
    served.post(f"/shard/api/jobs/cancel/{job}/")
    assert children() == []
    assert not (served.system.home.models / "model").exists()


def test_there_are_never_more_than_so_many(
    served: Served, endless: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MOST_JOBS", 2)
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


@dataclass(frozen=True)
class OverTwoNodes:
    """Tells once how far each of two nodes is, and goes on until it is cancelled."""

    kind: str = "deploy"
    queue: str = "two nodes"
    title: str = "Deploy tiny on 2 nodes"
    model: str = "tiny"

    async def do(self, job: Job, means: Means) -> Outcome[None]:
        nodes = (NodeProgress("sending", 1, "one", 3, 4, 2.0, 1), NodeProgress("waiting", 2, "two", 0, 0))
        job.report(JobProgress("sending", 3, 4, 2.0, 0.5, nodes))
        await asyncio.Event().wait()
        raise AssertionError


def test_how_far_each_node_of_a_deployment_is_is_told(served: Served) -> None:
    job = served.system.run(served.system.controller.jobs.submit(OverTwoNodes(), Origin(via="command")))
    told = served.job(job.id, "running")["progress"]
    assert (told["phase"], told["done_bytes"], told["total_bytes"], told["seconds_left"]) == ("sending", 3, 4, 0.5)
    assert [(node["node_id"], node["phase"], node["done_bytes"]) for node in told["nodes"]] == [
        (1, "sending", 3), (2, "waiting", 0),
    ]  # fmt: skip
    assert told["nodes"][0]["already_bytes"] == 1 and told["nodes"][1]["node"] == "two"
    cancelled = served.post(f"/shard/api/jobs/cancel/{job.id}/")
    assert (cancelled["status"], cancelled["progress"], cancelled["can_retry"]) == ("cancelled", None, True)


def test_a_job_that_nobody_works_on_is_told_and_cannot_be_cancelled(served: Served) -> None:
    jobs = served.system.controller.registry.jobs
    record = jobs.add(kind="cut", title="Cut something", model_name="tiny", status=JobStatus.RUNNING)
    try:
        told = served.get(f"/shard/api/jobs/status/{record.id}/")
        assert (told["status"], told["title"], told["progress"]) == ("running", "Cut something", None)
        error = served.error("POST", f"/shard/api/jobs/cancel/{record.id}/", 409, json={})
        assert "not under way here" in error["message"]
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


@pytest.mark.parametrize("via", ["window", "command"])
def test_a_job_that_the_window_or_a_command_began_is_seen_cancelled_and_begun_again(
    bare: System, served: Served, endless: dict[str, str], via: Literal["window", "command"]
) -> None:
    work, origin = AddWork(endless["source"]), Origin(via=via, user="ada")
    job = bare.run(bare.controller.jobs.submit(work, origin)).id
    assert served.job(job, "running")["title"] == "Add model"
    assert job in [one["id"] for one in served.get("/")["jobs"]]
    assert "is running" in served.error("POST", f"/shard/api/jobs/retry/{job}/", 409, json={})["message"]
    assert served.post(f"/shard/api/jobs/cancel/{job}/")["status"] == "cancelled"
    record = bare.controller.registry.jobs.get(job)
    assert (record.status, record.error) == (JobStatus.CANCELLED, "Cancelled by the user.")
    again = served.post(f"/shard/api/jobs/retry/{job}/", None, 202)
    assert (again["id"] != job, again["kind"], again["title"]) == (True, "add", "Add model")
    served.job(again["id"], "running")
    assert served.post(f"/shard/api/jobs/cancel/{again['id']}/")["status"] == "cancelled"
    second, first = bare.controller.runs.select(kinds=("job",), limit=2)
    assert (first.origin, second.origin.via) == (origin, "http")


def test_the_end_of_the_server_leaves_alone_what_others_began(bare: System, endless: dict[str, str]) -> None:
    job = bare.run(bare.controller.jobs.submit(AddWork(endless["source"]), Origin(via="window"))).id
    with serving(bare) as served:
        served.job(job, "running")
    assert bare.controller.registry.jobs.get(job).status is JobStatus.RUNNING
    assert bare.run(bare.controller.cancel_job(job)).status is JobStatus.CANCELLED


def test_a_job_that_is_not_there_cannot_be_begun_again(served: Served) -> None:
    assert "no job 99999" in served.error("POST", "/shard/api/jobs/retry/99999/", 404, json={})["message"]
