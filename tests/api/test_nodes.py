"""Nodes over REST: how they are, adding one, what is said where that fails, draining, removing, losing one."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from app.registry import DeploymentStatus, JobStatus
from tests.api.browsing import browsing
from tests.api.serving import CONTEXT, ENDLESS, LAYERS, MODEL, Served, serving
from tests.cluster.test_meetings import Machine, waits
from tests.e2e.conftest import System
from tests.waiting import wait_until
from tests.worker_agent.agent_process import AgentProcess, running_agent
from worker_agent.wire.files import write_private
from worker_agent.wire.keys import Invitation, KeyPair

STATUS, ADD, MEET = "/shard/api/nodes/status/", "/shard/api/nodes/add/", "/shard/api/nodes/meet/"
INVITE = "/shard/api/nodes/invite/"


@pytest.fixture(scope="module")
def guest(cluster: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """A third agent, which somebody else has started: it trusts this controller and is not registered."""
    home = tmp_path_factory.mktemp("guest") / "agent"
    with running_agent(home, f"--trust={cluster.controller.identity.keys.public}", "--memory", "200M") as agent:
        yield agent


@pytest.fixture
def node(api: Served, guest: AgentProcess) -> Iterator[dict[str, Any]]:
    """The guest, registered for one test."""
    added = api.post(ADD, of(guest), 201)
    yield added
    api.client.post(f"/shard/api/nodes/remove/{added['id']}/", json={})
    assert len(nodes(api)) == 2


def of(agent: AgentProcess, **changes: str) -> dict[str, str]:
    """What an agent tells when it starts."""
    return {"address": agent.address.removeprefix("tcp://"), "key": agent.public_key, **changes}


def nodes(api: Served) -> dict[int, dict[str, Any]]:
    return {each["id"]: each for each in api.get(STATUS)["nodes"]}


def test_an_invited_agent_joins_and_the_invitation_is_a_job_that_anybody_may_end(
    cluster: System, api: Served, tmp_path: Path
) -> None:
    asked = {"listen": "127.0.0.1:0"}
    opened = api.post(INVITE, asked, 202)
    job = api.get(f"/shard/api/jobs/status/{opened['job_id']}/")
    assert (job["status"], job["kind"]) == ("running", "invite") and "over HTTP" in job["asked_by"]
    (invitation,) = {start[system].split()[-1] for start in opened["commands"] for system in ("posix", "windows")}
    assert invitation not in json.dumps(job)
    with running_agent(tmp_path / "invited", f"--join={invitation}", "--memory", "200M"):
        joined = api.job(opened["job_id"])
        (node,) = nodes(api).keys() - {each.id for each in cluster.nodes[:2]}
        assert joined["details"]["nodes"] == [node]
        api.post(f"/shard/api/nodes/remove/{node}/")

    again = api.post(INVITE, asked, 202)
    cancelled = api.post(f"/shard/api/jobs/cancel/{again['job_id']}/")
    assert cancelled["status"] == "cancelled" and not cancelled["can_retry"], "nobody would see the command"
    (invitation,) = {start["posix"].split()[-1] for start in again["commands"]}
    place = urlsplit(Invitation.decode(invitation).address)
    with pytest.raises(ConnectionRefusedError), socket.create_connection((place.hostname, place.port), 5):
        pass


def test_an_invitation_that_nobody_could_follow_is_refused_and_its_job_says_why(api: Served) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wrong = {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}
        assert "listen" in api.error("POST", INVITE, 400, json=wrong)["message"]
    assert "reached" in api.error("POST", INVITE, 400, json={"listen": "0.0.0.0:0"})["advice"]


def test_every_node_is_told_with_what_its_agent_says(api: Served) -> None:
    records = {record.id: record for record in api.system.controller.registry.nodes.list()}
    wait_until(lambda: all(each["state"] == "up" for each in nodes(api).values()))
    wait_until(lambda: all(len(each["stages"]) == 1 for each in nodes(api).values()))
    found = nodes(api)
    assert found.keys() == records.keys() and len(found) == 2
    for id, each in found.items():
        assert each["name"] == records[id].hostname
        assert f"tcp://{each['address']}" == records[id].address
        assert (each["problem"], each["draining"], each["device"]) == ("", False, "cpu")
        assert 0 < each["memory_used"] < each["memory_budget"] <= each["memory_total"]
        assert 0 < each["memory_available"] < each["memory_total"]
        assert 10_000_000 < each["memory_agent"] < each["memory_believed"] < each["memory_agent"] + each["memory_used"]
        assert each["memory_held"] > each["memory_agent"] / 2 and each["memory_problem"] == ""
        assert each["round_trip_ms"] > 0 and 0 <= each["cpu_percent"] <= 100
        assert each["gpus"] == records[id].capacities["gpus"] and isinstance(each["speeds"], list)
        assert each["system"] and each["software"] and "cores" in each["cpu"]
        heard = datetime.fromisoformat(each["last_heartbeat"])
        assert timedelta(0) <= datetime.now(UTC) - heard < timedelta(minutes=2)
    assert [each["stages"] for each in found.values()] == [[f"layers 0–1 of {MODEL}"], [f"layers 2–3 of {MODEL}"]]


def test_an_agent_is_added_and_works(api: Served, guest: AgentProcess) -> None:
    added = api.post(ADD, of(guest), 201)
    assert added["address"] == guest.address.removeprefix("tcp://")
    assert (added["state"], added["problem"]) == ("up", ""), "it was looked at a moment ago"
    wait_until(lambda: nodes(api)[added["id"]]["memory_budget"] is not None)
    assert nodes(api)[added["id"]]["memory_budget"] == 200_000_000
    (stage,) = api.post("/shard/api/deployments/plan/", {"model": MODEL, "nodes": [added["id"]]})["stages"]
    assert (stage["node_id"], stage["start"], stage["end"]) == (added["id"], 0, LAYERS)

    removed = api.post(f"/shard/api/nodes/remove/{added['id']}/")
    assert (removed["id"], removed["state"], removed["problem"]) == (added["id"], "down", "It was removed.")
    assert added["id"] not in nodes(api)
    assert "no node" in api.error("POST", f"/shard/api/nodes/remove/{added['id']}/", 404, json={})["message"]
    assert guest.process.poll() is None, "somebody else has started it"


def test_adding_an_agent_twice_changes_nothing(api: Served, guest: AgentProcess, node: dict[str, Any]) -> None:
    again = api.post(ADD, of(guest), 201)
    assert again["id"] == node["id"] and len(nodes(api)) == 3
    wait_until(lambda: nodes(api)[node["id"]]["state"] == "up")


def test_an_agent_that_was_at_another_address_is_moved(api: Served, guest: AgentProcess, node: dict[str, Any]) -> None:
    moved = api.post(ADD, of(guest, address=f"localhost:{guest.endpoint.port}"), 201)
    assert (moved["id"], moved["address"]) == (node["id"], f"localhost:{guest.endpoint.port}")
    assert len(nodes(api)) == 3


def test_the_address_of_another_node_is_a_conflict(api: Served, guest: AgentProcess) -> None:
    registry = api.system.controller.registry
    place = {"ip_address": guest.endpoint.host, "port": guest.endpoint.port}
    other = registry.nodes.add(hostname="other", public_key=KeyPair.make().public, agent_id="other", **place)
    try:
        error = api.error("POST", ADD, 409, json=of(guest))
        assert (error["type"], error["code"]) == ("conflict", "conflict") and "address" in error["message"]
    finally:
        registry.nodes.remove(other.id)


def test_a_node_that_was_silent_for_long_is_told_as_a_ghost_there_and_on_its_page(api: Served) -> None:
    registry = api.system.controller.registry
    place = {"ip_address": "192.0.2.7", "port": 7600, "public_key": KeyPair.make().public}
    heard = datetime.now(UTC) - timedelta(days=30)
    lost = registry.nodes.add(hostname="attic", last_heartbeat=heard, **place)
    try:
        assert {id for id, each in nodes(api).items() if each["ghost"]} == {lost.id}
        assert "attic was last heard of 30 d ago" in nodes(api)[lost.id]["ghost"]
        assert (
            "A ghost. attic was last heard of 30 d ago"
            in api.client.get("/shard/nodes/", headers={"accept": "text/html"}).text
        )
    finally:
        registry.nodes.remove(lost.id)


def test_another_key_than_the_agents_is_told(api: Served, guest: AgentProcess) -> None:
    error = api.error("POST", ADD, 400, json=of(guest, key=KeyPair.make().public))
    assert "another key" in error["message"]
    assert len(nodes(api)) == 2


def test_an_agent_that_does_not_trust_this_controller_is_told(bare: System, guest: AgentProcess) -> None:
    with serving(bare) as stranger:
        error = stranger.error("POST", ADD, 400, json=of(guest))
        assert "--trust" in error["advice"]
        assert stranger.get(STATUS) == {"nodes": []}


def test_an_address_where_nothing_listens_is_told(api: Served, guest: AgentProcess) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = api.error("POST", ADD, 400, json=of(guest, address=f"127.0.0.1:{port}"))
    assert f"127.0.0.1:{port}" in error["message"] and error["advice"]
    assert len(nodes(api)) == 2


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"address": "nowhere"}, 400),
        ({"address": "127.0.0.1:port"}, 400),
        ({"address": "127.0.0.1:99999"}, 400),
        ({"address": "/etc/passwd"}, 400),
        ({"address": "ipc:///tmp/x"}, 400),
        ({"address": ""}, 422),
        ({"key": "short"}, 400),
        ({"key": " " * 40}, 400),
        ({"key": "k" * 101}, 422),
        ({"hostname": "other"}, 422),
    ],
)
def test_what_cannot_be_an_agent_is_told(api: Served, guest: AgentProcess, change: dict[str, str], status: int) -> None:
    assert api.error("POST", ADD, status, json=of(guest, **change))["type"] == "bad_input"
    assert len(nodes(api)) == 2


def test_a_node_that_is_drained_takes_no_new_work(api: Served, node: dict[str, Any]) -> None:
    drained = api.post(f"/shard/api/nodes/drain/{node['id']}/")
    assert (drained["state"], drained["draining"]) == ("draining", True)
    wait_until(lambda: nodes(api)[node["id"]]["state"] == "draining")
    plan = api.post("/shard/api/deployments/plan/", {"model": MODEL})
    assert node["id"] not in [stage["node_id"] for stage in plan["stages"]]

    back = api.post(f"/shard/api/nodes/drain/{node['id']}/", {"draining": False})
    assert (back["state"], back["draining"]) == ("up", False)
    deployed_on(api, node)


def test_a_node_that_was_drained_and_removed_works_when_it_is_added_again(api: Served, guest: AgentProcess) -> None:
    added = api.post(ADD, of(guest), 201)
    api.post(f"/shard/api/nodes/drain/{added['id']}/")
    api.post(f"/shard/api/nodes/remove/{added['id']}/")
    again = api.post(ADD, of(guest), 201)
    assert (again["state"], again["draining"]) == ("up", False)
    try:
        deployment = deployed_on(api, again)
        assert api.answer(max_tokens=2)["deployment_id"] == deployment
    finally:
        api.post(f"/shard/api/nodes/remove/{again['id']}/")


def test_nodes_that_are_not_there_are_told(api: Served) -> None:
    for action in ("remove", "drain"):
        assert "no node 999" in api.error("POST", f"/shard/api/nodes/{action}/999/", 404, json={})["message"]
    api.error("GET", ADD, 405)


def test_an_agent_that_came_otherwise_or_over_ssh_is_not_started_or_ended_over_http(
    api: Served, guest: AgentProcess, node: dict[str, Any]
) -> None:
    actions = [f"/shard/api/nodes/{action}/{node['id']}/" for action in ("start", "stop", "update")]
    for action in actions:
        assert "not launched from here" in api.error("POST", action, 409, json={})["message"]
    over_ssh = api.system.controller.home.root / "ssh-agents.json"
    write_private(over_ssh, json.dumps({guest.public_key: {"target": "ada@127.0.0.1:1", "pid": 1}}).encode())
    try:
        for action in actions:
            error = api.error("POST", action, 409, json={})
            assert "SSH" in error["message"] and "in the window, or by a command" in error["advice"]
        for kind in ("ssh", "update"):
            jobs = api.system.controller.registry.jobs
            job = jobs.add(kind=kind, title="by SSH", status=JobStatus.FAILED, details={"nodes": [node["id"]]})
            assert "SSH" in api.error("POST", f"/shard/api/jobs/retry/{job.id}/", 409, json={})["message"]
    finally:
        over_ssh.unlink()
    assert guest.process.poll() is None


def test_the_forms_of_the_page_add_and_remove(api: Served, guest: AgentProcess) -> None:
    with browsing(api) as browser:
        answer = browser.send(ADD, page="/shard/nodes/", **of(guest))
        assert (answer.status_code, answer.headers["location"]) == (303, "/shard/nodes/")
        address = guest.address.removeprefix("tcp://")
        assert address in browser.open("/shard/nodes/")
        (added,) = [each for each in nodes(api).values() if each["address"] == address]
        answer = browser.send(f"/shard/api/nodes/remove/{added['id']}/", page="/shard/nodes/")
        assert answer.status_code == 303
        assert address not in browser.open("/shard/nodes/")


def deployed_on(api: Served, node: dict[str, Any]) -> str:
    """Deploy the model on this node too; requests go to the deployment that came last."""
    body = {"model": MODEL, "nodes": [node["id"]], "context": CONTEXT, "kv_tokens": CONTEXT}
    job = api.job(api.post("/shard/api/deployments/deploy/", body, 202)["id"])
    assert (job["status"], job["error"]) == ("done", None)
    return str(job["details"]["deployment"])


def test_removing_a_node_takes_down_what_needs_it(api: Served, node: dict[str, Any]) -> None:
    deployment = deployed_on(api, node)
    request = api.answer(max_tokens=2)
    assert request["deployment_id"] == deployment
    api.post(f"/shard/api/nodes/remove/{node['id']}/")
    assert api.system.controller.registry.deployments.get(deployment).status is DeploymentStatus.UNLOADED
    again = api.answer(max_tokens=2)
    assert again["status"] == "completed" and again["deployment_id"] != deployment


EVENTS = "/shard/api/events/recent/?limit=20"


def test_a_node_that_dies_is_told_and_so_is_what_it_was_doing(
    api: Served, guest: AgentProcess, node: dict[str, Any]
) -> None:
    """The last one here: the guest does not come back."""
    deployment = deployed_on(api, node)
    request = api.submit(**ENDLESS)
    wait_until(lambda: api.status(request)["completion_tokens"] > 2)
    guest.kill()
    wait_until(lambda: any(" paused." in event["message"] for event in api.get(EVENTS)["events"]))
    wait_until(lambda: any(" went on after " in event["message"] for event in api.get(EVENTS)["events"]))
    before = api.status(request)["completion_tokens"]
    wait_until(lambda: api.status(request)["completion_tokens"] > before + 2)
    api.post(f"/shard/api/inference/cancel/{request}/")
    listed = api.get("/shard/api/deployments/status/")["deployments"]
    (moved,) = [each for each in listed if each["id"] == deployment]
    assert node["id"] not in [stage["node_id"] for stage in moved["stages"]] and moved["mending"] == ""
    wait_until(lambda: nodes(api)[node["id"]]["state"] == "down")
    dead = nodes(api)[node["id"]]
    assert dead["problem"] and dead["memory_used"] is None and dead["stages"] == []
    assert api.error("POST", f"/shard/api/nodes/drain/{node['id']}/", 503, json={})["message"]
    assert api.post(f"/shard/api/nodes/remove/{node['id']}/")["state"] == "down", "it is removed all the same"
    assert api.answer(max_tokens=2)["status"] == "completed", "by the two that are left"
    api.post(f"/shard/api/deployments/undeploy/{deployment}/")


def test_links_between_nodes_are_measured_by_a_job_and_then_told(api: Served) -> None:
    begun = api.post("/shard/api/nodes/links/measure/", {}, 202)
    assert (begun["kind"], begun["title"]) == ("links", "Measure links")
    wait_until(lambda: api.get(f"/shard/api/jobs/status/{begun['id']}/")["status"] == "done", seconds=60)
    told = api.get("/shard/api/nodes/links/")["links"]
    ids = list(nodes(api))
    assert {(each["source_id"], each["target_id"]) for each in told} == {(a, b) for a in ids for b in ids if a != b}
    for each in told:
        assert each["outcome"] == "measured"
        assert 0 < each["least_round_trip_ms"] <= each["round_trip_ms"]
        assert each["bytes_per_second"] > 1e6


def test_links_of_a_node_that_is_not_there_are_not_measured(api: Served) -> None:
    assert api.client.post("/shard/api/nodes/links/measure/", json={"nodes": [1, 99_999]}).status_code == 404
    assert api.client.post("/shard/api/nodes/links/measure/", json={"nodes": [1]}).status_code == 422


def test_a_machine_that_waits_is_seen_met_and_let_go(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine("attic")
    with waits(machine, monkeypatch):
        [seen] = [each for each in api.get("/shard/api/nodes/waiting/")["machines"] if each["name"] == "attic"]
        assert (seen["address"], seen["key"], seen["problem"]) == (machine.address, machine.keys.public, "")
        meeting = api.post(MEET, {"address": seen["address"], "key": seen["key"]}, 201)
        assert meeting["fingerprint"] == seen["fingerprint"] and "code" not in meeting
        confirm, wrong = f"{MEET}{meeting['id']}/confirm/", {"code": "000000" if machine.code != "000 000" else "1" * 6}
        assert "not the code" in api.post(confirm, wrong, 400)["error"]["message"]
        assert api.post(f"{MEET}{meeting['id']}/end/") == {"ended": meeting["id"]}
        wait_until(lambda: "cancelled there" in machine.shown[-1])
        assert "is over" in api.post(confirm, {"code": machine.code}, 409)["error"]["message"]
        stranger = {"address": machine.address, "key": KeyPair.make().public}
        assert "another key" in api.post(MEET, stranger, 400)["error"]["message"]
    assert machine.found is None


def test_launchers_are_told_and_what_is_begun_is_a_job(api: Served) -> None:
    found = {each["name"]: each for each in api.get("/shard/api/nodes/launchers/")["launchers"]}
    assert found.keys() == {"local", "ssh", "ray"} and len(found["local"]["nodes"]) == 2
    launch = "/shard/api/nodes/launch/"
    api.post(launch, {"launcher": "ssh", "count": 1}, 422)  # goes by the keys of the controller's user
    api.post(launch, {"launcher": "local", "count": 65}, 422)
    job = api.post(launch, {"launcher": "local", "count": 1}, 202)
    wait_until(lambda: api.get(f"/shard/api/jobs/status/{job['id']}/")["status"] == "done", 120)
    [added] = set(nodes(api)) - set(found["local"]["nodes"])
    assert job["asked_by"].startswith("over HTTP: ")
    pid = api.system.controller.registry.nodes.get(added).local_pid
    renewed = api.post(f"/shard/api/nodes/update/{added}/", {}, 202)
    assert api.job(renewed["id"], "done")["kind"] == "update"
    assert api.system.controller.registry.nodes.get(added).local_pid != pid
    assert "listens on" in api.get(f"/shard/api/nodes/log/{added}/")["text"]
    assert api.post(f"/shard/api/nodes/stop/{added}/")["state"] == "stopped"
    stopped = api.system.controller.registry.nodes.get(added)
    assert not psutil.pid_exists(stopped.local_pid or 0)
    assert api.post(f"/shard/api/nodes/start/{added}/")["state"] == "up"
    started = api.system.controller.registry.nodes.get(added)
    assert (started.public_key, psutil.pid_exists(started.local_pid or 0)) == (stopped.public_key, True)
    said = [event.message for event in api.system.controller.registry.events.list(node_id=added)]
    for what in ("ended", "started again"):
        assert [each for each in said if f"being {what}; asked for by " in each and "over HTTP: " in each]
    assert api.client.get("/shard/api/nodes/log/99999/").status_code == 404
    api.post(f"/shard/api/nodes/remove/{added}/", {}, 200)
