"""Cutting models over REST: in the background, below the home's folder for shards, and nowhere else from elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.browsing import browsing
from tests.api.serving import MODEL, Served

SUBMIT, RECENT = "/shard/api/sharding/submit/", "/shard/api/sharding/recent/"
ELSEWHERE = {"x-forwarded-for": "192.0.2.7"}


@pytest.fixture
def shards(api: Served) -> Iterator[Path]:
    """Where shards go; empty again after the test."""
    folder = api.system.home.root / "shards"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    registry = api.system.controller.registry
    for shard in registry.shards.list():
        if shard.deployment_id is None:
            registry.shards.remove(shard.id)


def cut(api: Served, **body: Any) -> Any:
    """Cut the model, and the job when it is over."""
    return api.job(api.post(SUBMIT, {"model": MODEL, **body}, 202)["id"])


def registered(api: Served) -> list[tuple[int, int, int, str]]:
    """What the registry holds of shards that lie in folders."""
    shards = api.system.controller.registry.shards.list()
    return [(one.shard_id, one.start_layer, one.end_layer, str(one.path)) for one in shards if one.path is not None]


def test_a_model_is_cut_into_folders_that_stand_for_themselves(api: Served, shards: Path) -> None:
    begun = api.post(SUBMIT, {"model": MODEL.upper(), "num_shards": 2}, 202)
    assert (begun["kind"], begun["title"], begun["model"]) == ("cut", f"Cut {MODEL} into 2 shards", MODEL)
    job = api.job(begun["id"])
    assert (job["status"], job["error"]) == ("done", None)
    assert job["details"]["output_dir"] == str(shards / MODEL) and job["details"]["layers"] == "0-1,2-3"
    for number in range(2):
        folder = shards / MODEL / f"shard_{number}"
        metadata = json.loads((folder / "metadata.json").read_text())
        assert metadata["shard_id"] == number
        assert (folder / "config.json").is_file() and list(folder.glob("*.safetensors"))
    assert job["details"]["bytes"] > 0 and len(job["details"]["registered"]) == 2
    expected = [(number, 2 * number, 2 * number + 2, str(shards / MODEL / f"shard_{number}")) for number in range(2)]
    assert registered(api) == expected
    assert api.get(f"/shard/api/sharding/status/{job['id']}/") == job
    run = api.get(f"/shard/api/runs/job/{job['id']}/")["run"]
    assert run["trace"]["origin"]["via"] == "http" and run["trace"]["phases"]


def test_ranges_folder_and_registry_are_as_asked(api: Served, shards: Path) -> None:
    job = cut(api, layers="0,1-3", output_dir="by/hand", register_db=False)
    assert job["status"] == "done" and job["title"] == f"Cut {MODEL} into 2 shards"
    assert job["details"]["output_dir"] == str(shards / "by" / "hand")
    assert job["details"]["layers"] == "0,1-3" and "registered" not in job["details"]
    assert registered(api) == []


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "Neither"),
        ({"num_shards": 2, "layers": "0-3"}, 400, "1 ranges"),
        ({"num_shards": 5}, 400, "4 shards at most"),
        ({"num_shards": 0}, 422, "num_shards"),
        ({"num_shards": "many"}, 422, "num_shards"),
        ({"layers": "0-9"}, 400, "past the last layer"),
        ({"layers": "0-1"}, 400, "layer"),
        ({"model": "nobody", "num_shards": 2}, 404, "no model named"),
        ({"model": "/etc", "num_shards": 2}, 404, "no model named"),
        ({"num_shards": 2, "device": "cpu"}, 422, "device"),
    ],
)
def test_what_cannot_be_cut_is_told_before_anything_begins(
    api: Served, shards: Path, body: dict[str, Any], status: int, message: str
) -> None:
    before = api.get(RECENT)
    assert message in api.error("POST", SUBMIT, status, json={"model": MODEL, **body})["message"]
    assert api.get(RECENT) == before and not shards.exists()


@pytest.mark.parametrize(
    "folder",
    ["..", "../x", "a/../../x", ".", "./", "a/..", "../shards", "../shards-of-others", "a\x00b", "../shards/../x"],
)
def test_no_name_leads_out_of_the_folder_for_shards(api: Served, shards: Path, folder: str) -> None:
    before = sorted(api.system.home.root.iterdir())
    for headers in ({}, ELSEWHERE):
        body = {"model": MODEL, "num_shards": 2, "output_dir": folder}
        assert api.error("POST", SUBMIT, 400, json=body, headers=headers)["type"] == "bad_input"
    assert sorted(api.system.home.root.iterdir()) == before


def test_a_link_in_the_folder_for_shards_does_not_lead_out_of_it(api: Served, shards: Path, tmp_path: Path) -> None:
    shards.mkdir()
    (shards / "link").symlink_to(tmp_path)
    for folder in ("link", "link/x"):
        body = {"model": MODEL, "num_shards": 2, "output_dir": folder}
        assert "leads out" in api.error("POST", SUBMIT, 400, json=body)["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["/tmp/x", "~/x", "~", "C:\\x", "\\\\server\\share", "C:/x", "//server/x"])
def test_other_folders_are_for_programs_of_this_machine(api: Served, folder: str) -> None:
    body = {"model": MODEL, "num_shards": 2, "output_dir": folder}
    error = api.error("POST", SUBMIT, 403, json=body, headers=ELSEWHERE)
    assert error["code"] == "not_local" and "below `shards`" in error["advice"]


def test_a_program_of_this_machine_says_where(api: Served, tmp_path: Path) -> None:
    job = cut(api, num_shards=1, output_dir=str(tmp_path / "out"), register_db=False)
    assert (job["status"], job["title"]) == ("done", f"Cut {MODEL} into 1 shard")
    assert (tmp_path / "out" / "shard_0" / "metadata.json").is_file()


def test_a_job_that_is_cancelled_leaves_nothing(api: Served, shards: Path) -> None:
    jobs = [api.post(SUBMIT, {"model": MODEL, "num_shards": 2, "output_dir": f"out{n}"}, 202)["id"] for n in range(6)]
    # One after another: the last one waits for all the others.
    assert api.get(f"/shard/api/sharding/status/{jobs[-1]}/")["status"] == "queued"
    for job in reversed(jobs):
        assert api.client.post(f"/shard/api/sharding/cancel/{job}/", json={}).status_code in (200, 409)
    over = [api.job(job) for job in jobs]
    assert over[-1]["status"] == "cancelled" and over[-1]["completed_at"] is not None
    for number, job in enumerate(over):
        is_there = (shards / f"out{number}" / "shard_0").exists()
        if job["error"] == "Cancelled by the user.":
            assert not is_there
        else:  # the first ones may have been done by then
            assert is_there and job["error"] in (None, "It was done when it was cancelled.")
    again = api.error("POST", f"/shard/api/sharding/cancel/{jobs[-1]}/", 409, json={})
    assert "is over: cancelled" in again["message"]


def test_jobs_of_another_kind_are_none_of_these(api: Served, tmp_path: Path) -> None:
    other = api.job(api.post("/shard/api/models/add/", {"source": str(tmp_path)}, 202)["id"])
    assert f"jobs/status/{other['id']}" in api.error("GET", f"/shard/api/sharding/status/{other['id']}/", 404)["advice"]
    api.error("POST", f"/shard/api/sharding/cancel/{other['id']}/", 404, json={})
    assert other["id"] not in [job["id"] for job in api.get(RECENT)["jobs"]]
    api.error("GET", "/shard/api/sharding/status/99999/", 404)


def test_the_newest_jobs_are_listed_by_state_and_in_pages(api: Served, shards: Path) -> None:
    done = [cut(api, num_shards=1, output_dir=f"listed{number}")["id"] for number in range(2)]
    listed = api.get(RECENT)["jobs"]
    assert [job["id"] for job in listed][:2] == done[::-1]
    assert {job["kind"] for job in listed} == {"cut"}
    assert api.get(RECENT, params={"limit": 1, "offset": 1})["jobs"][0]["id"] == done[0]
    assert api.get(RECENT, params={"status": "done"})["jobs"][0]["id"] == done[1]
    assert done[1] not in [job["id"] for job in api.get(RECENT, params={"status": "cancelled"})["jobs"]]
    api.error("GET", RECENT, 422, params={"status": "lost"})


def test_the_form_of_a_page_cuts_a_model(api: Served, shards: Path) -> None:
    with browsing(api) as browser:
        fields = {"model": MODEL, "num_shards": "2", "layers": "", "output_dir": "", "register_db": "false"}
        answer = browser.send(SUBMIT, page="/shard/models/", **fields)
    assert (answer.status_code, answer.headers["location"]) == (303, "/shard/models/")
    job = api.job(api.get(RECENT, params={"limit": 1})["jobs"][0]["id"])
    assert job["status"] == "done" and "registered" not in job["details"]
