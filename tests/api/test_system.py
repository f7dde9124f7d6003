"""Health and figures: what monitors are told, and that it agrees with what happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api import routes
from app.paths import Home
from tests.api.serving import ENDLESS, MODEL, Served, serving
from tests.e2e.conftest import System, open_system
from tests.waiting import wait_until
from worker_agent import __version__

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def fresh(cluster: System) -> Iterator[Served]:
    """A server that counts from nothing."""
    with serving(cluster) as served:
        yield served


def figures(served: Served) -> Figures:
    """All samples by name and labels, read as Prometheus does."""
    response = served.client.get("/metrics")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def figure(figures: Figures, name: str, /, **labels: str) -> float:
    return figures.get((f"shardboard_{name}", frozenset(labels.items())), 0.0)


# --- health ---


def test_a_server_with_nodes_is_well(api: Served) -> None:
    wait_until(lambda: api.client.get("/health/ready").status_code == 200)
    expected = {"status": "ok", "registry": "ok", "nodes": 2, "nodes_up": 2}
    assert api.get("/health") == api.get("/health/ready") == expected
    assert api.get("/health/live") == {"status": "ok"}
    for path in ("/health", "/health/ready", "/health/live"):
        head = api.client.head(path)
        assert (head.status_code, head.content) == (200, b"")


def test_a_server_without_nodes_lives_and_is_not_ready(bare: System) -> None:
    with serving(bare) as served:
        expected = {"status": "degraded", "registry": "ok", "nodes": 0, "nodes_up": 0}
        assert served.get("/health") == expected
        assert served.get("/health/ready", 503) == expected
        assert served.get("/health/live") == {"status": "ok"}


def test_a_full_disk_is_told_by_health_and_by_what_cannot_be_written(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes.system, "FRESH_SECONDS", 0.0)
    home = Home(root=small_disk / "home", models=small_disk / "models").create()
    with open_system(home) as system, serving(system) as served:
        assert served.get("/health")["registry"] == "ok"
        filling = small_disk / "filling"
        fill(filling)
        told = served.get("/health", 503)
        assert (told["status"], told["registry"]) == ("failing", "cannot be written")
        assert str(small_disk) not in str(told), "who needs no key to ask does not learn where it lies"
        assert served.get("/health/live") == {"status": "ok"}, "to start it anew would not help"
        error = served.error("POST", "/shard/api/models/add/", 507, json={"source": "demo"})
        assert "No space is left" in error["message"]
        assert served.get("/shard/api/events/recent/", params={"limit": 1}), "it can still be read"
        filling.unlink()
        wait_until(lambda: served.client.get("/health").status_code == 200)


def fill(file: Path) -> None:
    """Leave not a byte of a file system free."""
    with file.open("wb", buffering=0) as output:
        for size in (2**20, 4096, 1):
            try:
                while True:
                    output.write(b"x" * size)
            except OSError:
                continue


# --- figures ---


def test_requests_and_tokens_are_counted_once(fresh: Served) -> None:
    assert figure(figures(fresh), "requests_total", model=MODEL, status="completed") == 0, "what was before is not"
    answers = [fresh.answer("The quick brown", max_tokens=count) for count in (2, 5)]
    fresh.system.answer(MODEL, "from elsewhere", max_tokens=3)
    cancelled = fresh.cancel(fresh.submit(**ENDLESS))
    failed = {"model": MODEL, "token_ids": [100_000]}
    fresh.finished(fresh.post("/shard/api/inference/submit/", failed, 202)["id"])
    for _ in range(2):  # who asks twice is told the same
        told = figures(fresh)
        assert figure(told, "requests_total", model=MODEL, status="completed") == 3, "also those that came otherwise"
        assert figure(told, "requests_total", model=MODEL, status="cancelled") == 1
        assert figure(told, "requests_total", model=MODEL, status="failed") == 1
        tokens = 2 + 5 + 3 + cancelled["completion_tokens"]
        assert figure(told, "tokens_total", model=MODEL, kind="completion") == tokens
        assert figure(told, "tokens_total", model=MODEL, kind="prompt") > sum(one["prompt_tokens"] for one in answers)
        assert figure(told, "request_seconds_count", model=MODEL) == 3
        assert figure(told, "request_seconds_sum", model=MODEL) >= sum(one["timings"]["total"] for one in answers)
        assert figure(told, "first_token_seconds_count", model=MODEL) >= 3
        assert figure(told, "requests_under_way") == 0


def test_what_is_under_way_is_told(fresh: Served) -> None:
    request = fresh.submit(**ENDLESS)
    with fresh.client.stream("GET", f"/shard/api/inference/stream/{request}/") as response:
        pieces = response.iter_bytes()
        next(pieces)
        told = figures(fresh)
        assert figure(told, "requests_under_way") == 1
        assert figure(told, "http_streams") == 1
        assert figure(told, "http_under_way") == 2, "the stream, and who asks"
        assert figure(told, "requests_total", model=MODEL, status="completed") == 0
        fresh.answer(max_tokens=1)
        for _ in range(2):  # while an older one is not over
            assert figure(figures(fresh), "requests_total", model=MODEL, status="completed") == 1
    fresh.cancel(request)
    wait_until(lambda: figure(figures(fresh), "http_streams") == 0)
    assert figure(figures(fresh), "requests_total", model=MODEL, status="cancelled") == 1


def test_a_request_that_was_under_way_before_the_server_is_counted_when_it_ends(cluster: System) -> None:
    run = cluster.begin(MODEL, "The quick brown", max_tokens=4000, ignore_eos=True)
    with serving(cluster) as served:
        wait_until(lambda: len(run.token_ids) > 2)
        assert figure(figures(served), "requests_under_way") == 1
        cluster.run(run.cancel())
        assert figure(figures(served), "requests_total", model=MODEL, status="cancelled") == 1


def test_requests_to_the_server_are_counted_by_route_and_status(fresh: Served) -> None:
    for _ in range(3):
        fresh.get("/shard/api/nodes/status/")
    for number in (1000, 1001):
        fresh.error("GET", f"/shard/api/jobs/status/{number}/", 404)
    fresh.error("POST", "/shard/api/nodes/add/", 422, json={})
    for path in ("/made/up", "/made/up/too", "/static/none", "/v1/none"):
        assert fresh.client.get(path).status_code == 404
    fresh.client.request("BREW", "/made/up")
    fresh.error("GET", "/", 421, headers={"host": "evil.example"})

    def http(**labels: str) -> float:
        return figure(figures(fresh), "http_requests_total", **labels)

    assert http(method="GET", route="/shard/api/nodes/status/", status="200") == 3
    assert http(method="GET", route="/shard/api/jobs/status/{job_id}/", status="404") == 2
    assert http(method="POST", route="/shard/api/nodes/add/", status="422") == 1
    assert http(method="GET", route="none", status="404") == 4, "paths that somebody makes up are no labels"
    assert http(method="other", route="none", status="404") == 1
    assert http(method="GET", route="none", status="421") == 1
    before = http(method="GET", route="/metrics", status="200")
    assert http(method="GET", route="/metrics", status="200") == before + 1
    told = figures(fresh)
    total = sum(value for (name, _), value in told.items() if name == "shardboard_http_requests_total")
    assert figure(told, "http_request_seconds_count") == total


def test_nodes_and_deployments_are_told_as_they_are(api: Served) -> None:
    wait_until(lambda: figure(figures(api), "nodes_up") == 2)
    told = figures(api)
    assert figure(told, "nodes") == 2
    (deployment,) = api.get("/shard/api/deployments/status/")["deployments"]
    assert deployment["status"] == "ready" and figure(told, "deployments", status="ready") == 1
    every = api.get("/shard/api/deployments/status/", params={"all": True})["deployments"]
    unloaded = [one for one in every if one["status"] == "unloaded"]
    assert figure(told, "deployments", status="unloaded") == len(unloaded)
    for node in api.get("/shard/api/nodes/status/")["nodes"]:
        labels = {"node": str(node["id"]), "name": node["name"]}
        assert figure(told, "node_up", **labels) == 1
        assert figure(told, "node_memory_budget_bytes", **labels) == node["memory_budget"]
        assert figure(told, "node_memory_total_bytes", **labels) == node["memory_total"]
        assert 0 < figure(told, "node_memory_used_bytes", **labels) < node["memory_budget"]
        believed = figure(told, "node_memory_believed_bytes", **labels)
        assert 0 < figure(told, "node_memory_agent_bytes", **labels) < believed
        assert figure(told, "node_memory_held_bytes", **labels) == pytest.approx(believed, abs=200_000_000)
    assert figure(told, "build_info", version=__version__) == 1
    assert figure(told, "loop_lag_seconds") >= 0


def test_a_node_that_is_not_there_any_more_is_no_figure_any_more(bare: System) -> None:
    nodes = bare.controller.registry.nodes
    record = nodes.add(hostname="gone", ip_address="192.0.2.1", port=1, public_key="k" * 40, agent_id="gone")
    with serving(bare) as served:
        labels = {"node": str(record.id), "name": "gone"}
        told = figures(served)
        assert ("shardboard_node_up", frozenset(labels.items())) in told and figure(told, "node_up", **labels) == 0
        assert figure(told, "nodes") == 1
        nodes.remove(record.id)
        told = figures(served)
        assert ("shardboard_node_up", frozenset(labels.items())) not in told and figure(told, "nodes") == 0


def test_every_figure_says_what_it_is(bare: System) -> None:
    with serving(bare) as served:
        families = list(text_string_to_metric_families(served.client.get("/metrics").text))
    assert len(families) > 15
    for family in families:
        assert family.name.startswith("shardboard_") and family.documentation and family.type != "unknown"
