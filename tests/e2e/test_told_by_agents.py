"""What real agents tell of how they run and of what they hold reaches the first stage, the registry and the trace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.errors import NodeError
from app.registry import EventLevel, EventRecord
from app.runs.trace import DeploymentTrace
from app.runs.ways import lost
from app.serving import ServingWish
from tests.cluster import hoarding_agent
from tests.e2e.conftest import System
from tests.waiting import wait_until
from tests.worker_agent.causal_types import make_model
from tests.worker_agent.tiny_models import greedy

LONG = [5 + 7 * number % 90 for number in range(300)]
"""More tokens than a step takes of a prompt that comes in pieces."""
HOARD = 500_000_000


@pytest.fixture(scope="module")
def mamba(shared: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, str, list[int]]]:
    """A type that takes prompts as a whole only, over two nodes: the system, its deployment, and what is to come."""
    folder = tmp_path_factory.mktemp("mamba") / "model"
    expected = greedy(make_model("mamba", folder), LONG, 8)
    shared.run(shared.controller.add_model(str(folder), name="mamba"))
    nodes = [node.id for node in shared.nodes[:2]]
    record = shared.run(shared.controller.deploy("mamba", nodes=nodes, serving=ServingWish(context=400, kv_tokens=400)))
    yield shared, record.id, expected
    shared.run(shared.controller.undeploy("mamba"))
    shared.run(shared.controller.remove_model("mamba"))


def answer(system: System) -> list[int]:
    record = system.answer("mamba", LONG, max_tokens=8, ignore_eos=True)
    assert record.error is None
    return list(record.token_ids)


def test_a_prompt_goes_whole_where_a_stage_takes_none_in_pieces(mamba: tuple[System, str, list[int]]) -> None:
    system, _, expected = mamba
    assert answer(system) == expected


def test_a_deployment_that_is_attached_again_still_takes_prompts_as_a_whole(
    mamba: tuple[System, str, list[int]],
) -> None:
    system, deployment, expected = mamba
    before = system.controller.deployments.pipeline(deployment)
    assert before is not None
    epoch = before.epoch
    system.call(lambda: before.fail(NodeError("The network was gone for a moment.", kind="lost")))
    assert answer(system) == expected
    after = system.controller.deployments.pipeline(deployment)
    assert after is not None and after.epoch > epoch, "it was linked anew"
    assert len(system.run(system.controller.deployments.ready("mamba"))) == 1, "it was not deployed anew"


def test_each_stage_tells_how_it_runs_while_it_is_there_and_in_the_deployments_trace(
    mamba: tuple[System, str, list[int]],
) -> None:
    system, deployment, _ = mamba
    node = system.nodes[1].id
    wait_until(lambda: system.controller.nodes.stage(node, deployment, 1))
    told = system.controller.nodes.stage(node, deployment, 1)
    assert told is not None and {way.name for way in lost(told.ways)} == {"batched", "pieces", "recorded", "reused"}
    trace = system.controller.runs.deployment(deployment).trace
    assert isinstance(trace, DeploymentTrace) and trace.plan is not None
    for stage in trace.plan.stages:
        ways = {way.name: way for way in stage.ways}
        assert ways["batched"].used == 0 and "mamba" in ways["batched"].why
        assert ways["pieces"].used < ways["pieces"].possible and ways["pieces"].why
    assert all(each.believed >= each.agent > 0 for each in trace.memory)


def test_a_speed_up_that_is_lost_is_a_warning_for_each_stage(mamba: tuple[System, str, list[int]]) -> None:
    system, deployment, _ = mamba
    warnings = events(system, deployment_id=deployment)
    assert {event.node_id for event in warnings} == {node.id for node in system.nodes[:2]}
    for event in warnings:
        assert event.message.startswith("mamba runs slower than it might on ")
        assert (
            "each answer has a pass of its own: " in event.message
            and "every prompt is read in one go: " in event.message
        )
        assert "SHARDBOARD_" not in event.message


def test_nothing_is_warned_of_where_every_way_is_taken(shared: System, tiny: Path) -> None:
    shared.run(shared.controller.add_model(str(tiny), name="quick"))
    record = shared.run(
        shared.controller.deploy("quick", nodes=[shared.nodes[2].id], serving=ServingWish(context=256, kv_tokens=256))
    )
    assert events(shared, deployment_id=record.id) == []
    shared.run(shared.controller.undeploy("quick"))
    shared.run(shared.controller.remove_model("quick"))


def test_a_process_that_holds_more_than_its_agent_believes_is_told_and_told_again_when_it_is_over(
    system: System, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cluster.health.BEAT_SECONDS", 0.2)
    wish, ready = tmp_path / "hoard", tmp_path / "ready"
    agent = subprocess.Popen(
        [
            sys.executable, hoarding_agent.__file__, str(wish), str(HOARD), "--listen", "127.0.0.1:0", "--home",
            str(tmp_path / "agent"), "--ready-file", str(ready), "--threads", "1",
            f"--trust={system.controller.identity.keys.public}",
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: ready.exists() or agent.poll() is not None)
        facts = json.loads(ready.read_text())
        node = system.run(system.controller.add_node(facts["address"], facts["public_key"]))
        system.run(system.controller.add_model(str(tiny), name="tiny"))
        system.run(system.controller.deploy("tiny", nodes=[node.id], serving=ServingWish(context=256, kv_tokens=256)))
        health = system.controller.nodes.health
        wait_until(lambda: (latest := health.latest(node.id)) is not None and latest.report.stages)
        # long enough to be settled: what it holds is about what it believes
        settled = datetime.now(UTC) + 20 * timedelta(seconds=0.2)
        wait_until(lambda: (latest := health.latest(node.id)) is not None and latest.at > settled)
        assert of_memory(system, node.id) == [] and health.memory_problem(node.id) == ""
        wish.touch()
        wait_until(lambda: of_memory(system, node.id))
        (event,) = of_memory(system, node.id)
        assert "MB more" in event.message
        assert health.memory_problem(node.id) == event.message
        (told,) = system.run(system.controller.node_memory())
        assert told.held - told.believed > HOARD * 0.8 and told.believed - told.agent < 10_000_000
        wish.unlink()
        wait_until(lambda: health.memory_problem(node.id) == "")
        wait_until(lambda: "again" in system.controller.registry.events.list(source="health")[0].message)
        assert len(of_memory(system, node.id)) == 1
    finally:
        agent.kill()
        agent.wait()


def of_memory(system: System, node: int) -> list[EventRecord]:
    """A busy machine's agent leaves beats unanswered while it takes half a gigabyte, which is warned of as well."""
    return [event for event in events(system, node_id=node) if "are accounted for" in event.message]


def events(system: System, **about: object) -> list[EventRecord]:
    """Warnings, the newest first."""
    return system.controller.registry.events.list(at_least=EventLevel.WARNING, **about)  # type: ignore[arg-type]
