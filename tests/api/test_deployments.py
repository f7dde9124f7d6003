"""Deployments over REST: where a model would go, loading it in the background, unloading it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.browsing import browsing
from tests.api.serving import CONTEXT, LAYERS, MODEL, Served
from tests.waiting import wait_until

PLAN, DEPLOY = "/shard/api/deployments/plan/", "/shard/api/deployments/deploy/"
STATUS = "/shard/api/deployments/status/"


def ids(api: Served) -> list[int]:
    return [node.id for node in api.system.nodes]


def ready(api: Served) -> list[dict[str, Any]]:
    return list(api.get(STATUS)["deployments"])


def test_what_is_deployed_is_told_with_its_stages(api: Served) -> None:
    (deployment,) = ready(api)
    assert (deployment["model"], deployment["status"], deployment["error"]) == (MODEL, "ready", None)
    assert (deployment["context"], deployment["kv_tokens"], deployment["dtype"]) == (CONTEXT, 16384, "float32")
    stages = [(stage["stage"], stage["node_id"], stage["start"], stage["end"]) for stage in deployment["stages"]]
    assert stages == [(0, ids(api)[0], 0, 2), (1, ids(api)[1], 2, 4)]
    assert api.get("/")["deployments"] == [deployment]


def test_each_stage_is_told_with_what_it_takes_and_how_it_runs(api: Served) -> None:
    wait_until(lambda: all(stage["ways"] for stage in ready(api)[0]["stages"]))
    for stage in ready(api)[0]["stages"]:
        assert stage["weight_bytes"] > 0 and stage["kv_bytes"] > 0
        ways = {way["name"]: way for way in stage["ways"]}
        assert ways["batched"] == {
            "name": "batched", "title": "Shared steps", "used": 2, "possible": 2, "lost": False, "why": "",
        }  # fmt: skip
        assert not any(way["lost"] for way in stage["ways"])
    unloaded = [one for one in api.get(STATUS, params={"all": True})["deployments"] if one["status"] == "unloaded"]
    assert all(stage["ways"] == [] and stage["weight_bytes"] is None for one in unloaded for stage in one["stages"])


def test_a_plan_says_where_a_model_would_go_and_loads_nothing(api: Served) -> None:
    body = {"model": MODEL, "nodes": ids(api)[::-1], "layers": "0-2,3", "context": 512, "kv_tokens": 1024}
    plan = api.post(PLAN, body)
    assert (plan["model"], plan["context"], plan["kv_tokens"]) == (MODEL, 512, 1024)
    placed = [(stage["node_id"], stage["start"], stage["end"]) for stage in plan["stages"]]
    assert placed == [(ids(api)[1], 0, 3), (ids(api)[0], 3, 4)], "in the order of the nodes"
    assert all(stage["weight_bytes"] > 0 and stage["kv_bytes"] > 0 for stage in plan["stages"])
    for stage, process in zip(plan["stages"], plan["processes"], strict=True):
        assert process["node_id"] == stage["node_id"] and process["agent_bytes"] > 10_000_000
        loaded, taken = process["loaded_bytes"], stage["weight_bytes"] + stage["kv_bytes"]
        assert loaded > 0, "what is deployed there already"
        assert process["process_bytes"] == process["agent_bytes"] + loaded + taken + process["working_bytes"]
    assert len(ready(api)) == 1


def test_a_plan_reckons_with_keys_and_values_in_8_bits(api: Served) -> None:
    body = {"model": MODEL, "nodes": ids(api)[:1], "context": 512, "kv_tokens": 1024}
    plan, smaller = api.post(PLAN, body), api.post(PLAN, {**body, "kv_dtype": "int8"})
    assert (plan["kv_dtype"], smaller["kv_dtype"]) == ("computed", "int8")
    assert smaller["stages"][0]["kv_bytes"] < plan["stages"][0]["kv_bytes"] / 2


def test_what_is_left_out_of_a_plan_is_chosen(api: Served) -> None:
    plan = api.post(PLAN, {"model": MODEL.upper()})
    assert plan["stages"][0]["start"] == 0 and plan["stages"][-1]["end"] == LAYERS
    used = {stage["node_id"] for stage in plan["stages"]}
    assert len(used) + len(plan["left_out"]) == 2


def test_one_node_may_hold_several_stages(api: Served) -> None:
    plan = api.post(PLAN, {"model": MODEL, "nodes": ids(api)[:1] * 2})
    assert [(stage["node_id"], stage["start"], stage["end"]) for stage in plan["stages"]] == [
        (ids(api)[0], 0, 2),
        (ids(api)[0], 2, 4),
    ]
    (process,) = plan["processes"]
    assert process["weight_bytes"] == sum(stage["weight_bytes"] for stage in plan["stages"])


@pytest.mark.parametrize("path", [PLAN, DEPLOY])
@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "nobody"}, 404, "no model named"),
        ({"nodes": [999]}, 404, "no node 999"),
        ({"nodes": []}, 422, "nodes"),
        ({"nodes": ["first"]}, 422, "nodes.0"),
        ({"kv_tokens": 2**31 - 1}, 409, "does not fit"),
        ({"layers": "0-1,2-3", "kv_tokens": 2**31 - 1}, 409, "are missing"),
        ({"layers": "0,1,2,3"}, 409, "4 ranges"),
        ({"layers": "0-9"}, 400, "past the last layer"),
        ({"layers": "1-3"}, 400, "layer"),
        ({"layers": "all"}, 400, "no range"),
        ({"dtype": "int4"}, 422, "dtype"),
        ({"context": 0}, 422, "context"),
        ({"kv_tokens": 2**31}, 422, "kv_tokens"),
    ],
)
def test_a_place_that_cannot_be_is_told_before_anything_begins(
    api: Served, path: str, change: dict[str, Any], status: int, message: str
) -> None:
    newest = [job["id"] for job in api.get("/shard/api/jobs/recent/")["jobs"]]
    assert message in api.error("POST", path, status, json={"model": MODEL, **change})["message"]
    assert [job["id"] for job in api.get("/shard/api/jobs/recent/")["jobs"]] == newest


def test_a_model_is_deployed_in_the_background_and_unloaded_again(api: Served) -> None:
    body = {"model": MODEL, "nodes": ids(api), "layers": "0,1-3", "context": 256, "kv_tokens": 256}
    begun = api.post(DEPLOY, body, 202)
    assert (begun["kind"], begun["title"], begun["model"]) == ("deploy", f"Deploy {MODEL} on 2 nodes", MODEL)
    job = api.job(begun["id"])
    assert job["status"] == "done" and job["progress"] is None
    id = job["details"]["deployment"]
    assert job["details"]["sent_bytes"] >= 0

    newest = ready(api)[0]
    assert (newest["id"], newest["context"], len(ready(api))) == (id, 256, 2)
    wait_until(lambda: all(len(node["stages"]) == 2 for node in api.get("/shard/api/nodes/status/")["nodes"]))
    answer = api.answer(max_tokens=3)
    assert answer["deployment_id"] == id
    assert api.get(f"/shard/api/runs/deployment/{id}/")["run"]["trace"]["origin"]["via"] == "http"

    unloaded = api.post(f"/shard/api/deployments/undeploy/{id}/")
    assert (unloaded["id"], unloaded["status"]) == (id, "unloaded")
    assert [deployment["id"] for deployment in ready(api)] != [id] and len(ready(api)) == 1
    every = {each["id"]: each["status"] for each in api.get(STATUS, params={"all": True})["deployments"]}
    assert every[id] == "unloaded" and len(every) > 1
    wait_until(lambda: all(len(node["stages"]) == 1 for node in api.get("/shard/api/nodes/status/")["nodes"]))
    error = api.error("POST", f"/shard/api/deployments/undeploy/{id}/", 409, json={})
    assert "unloaded" in error["message"]
    assert api.answer(max_tokens=3)["deployment_id"] != id


def test_unloading_ends_the_requests_that_are_answered_there(api: Served) -> None:
    body = {"model": MODEL, "nodes": ids(api)[:1], "context": CONTEXT, "kv_tokens": CONTEXT}
    deployment = api.job(api.post(DEPLOY, body, 202)["id"])["details"]["deployment"]
    request = api.submit(max_tokens=4000, ignore_eos=True)
    wait_until(lambda: api.status(request)["completion_tokens"] > 2)
    api.post(f"/shard/api/deployments/undeploy/{deployment}/")
    failed = api.finished(request)
    assert (failed["status"], failed["deployment_id"]) == ("failed", deployment)
    assert failed["error"] and failed["completion_tokens"] > 2


def test_a_deployment_that_is_not_there_is_told(api: Served) -> None:
    for id in ("nobody", "0", MODEL, "x" * 100):
        assert "no deployment" in api.error("POST", f"/shard/api/deployments/undeploy/{id}/", 404, json={})["message"]
    api.error("POST", f"/shard/api/deployments/undeploy/{'x' * 101}/", 422, json={})


def test_the_form_of_the_page_deploys_with_commas_between_the_nodes(api: Served) -> None:
    with browsing(api) as browser:
        fields = {
            "model": MODEL,
            "nodes": ", ".join(map(str, ids(api))),
            "layers": "0-1,2-3",
            "context": "128",
            "dtype": "",
        }
        answer = browser.send(DEPLOY, page="/shard/models/", **fields)
        assert (answer.status_code, answer.headers["location"]) == (303, "/shard/models/")
        (job,) = api.get("/shard/api/jobs/recent/", params={"limit": 1, "kind": "deploy"})["jobs"]
        done = api.job(job["id"])
        assert done["status"] == "done", done
        deployment = ready(api)[0]
        assert (deployment["id"], deployment["context"]) == (done["details"]["deployment"], 128)
        undeploy = f"/shard/api/deployments/undeploy/{deployment['id']}/"
        assert browser.send(undeploy, page="/shard/models/").status_code == 303
    assert len(ready(api)) == 1
