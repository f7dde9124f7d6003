"""A stage on several nodes: requests are shared out, and whoever is left takes over without loading anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from app.errors import BadInput, NodeError, PlacementError
from app.inference.replicas import Choice, best
from app.inference.request_run import RequestRun
from app.registry import DeploymentRecord, NodeRecord, RequestStatus
from app.serving import ServingWish
from tests.e2e.conftest import System
from tests.faults.conftest import LONGER, MODEL, as_undisturbed, deploy
from tests.faults.test_losses import LONG, PROMPT, check, interrupted, kill
from tests.waiting import wait_until
from worker_agent.wire.messages import Health, HealthReport

WISHES: list[tuple[Sequence[int], dict[str, Any]]] = [
    ([20 + number, *PROMPT], {**LONGER, "temperature": 0.9 * (number % 2), "seed": number}) for number in range(6)
]


def replica(system: System, *nodes: int) -> DeploymentRecord:
    """What is deployed once more, on these nodes by their place in the list."""
    return system.run(
        system.controller.deploy(MODEL, nodes=[system.nodes[index].id for index in nodes] or None, replica=True)
    )


def report(system: System, node: NodeRecord) -> HealthReport:
    return system.run(system.controller.nodes.link(node.id).call(Health(call=0)))


def where(runs: Sequence[RequestRun]) -> list[str | None]:
    return [run.record.deployment_id for run in runs]


def end(system: System, runs: Sequence[RequestRun]) -> None:
    """Their answers have served."""
    for run in runs:
        system.run(run.cancel())
        assert system.finish(run).status is RequestStatus.CANCELLED


def test_two_share_the_requests_and_one_takes_over_when_the_other_is_lost(four: System) -> None:
    first = deploy(four, 0, 1, 2)
    weights = sum(stage.weight_bytes for stage in report(four, four.nodes[0]).stages)
    before = report(four, four.nodes[0]).memory_used
    second = replica(four, 0, 3, 2)
    assert (first.group, second.group, second.replica_of) == (first.id, first.id, first.id)
    held = report(four, four.nodes[0])
    assert [stage.weight_bytes for stage in held.stages] == [weights, 0]
    assert held.memory_used == 2 * before - weights

    runs = [four.begin(MODEL, prompt, **wish) for prompt, wish in WISHES]
    wait_until(lambda: all(len(run.token_ids) >= 5 for run in runs))
    assert set(where(runs)) == {first.id, second.id}
    lost = [run for run in runs if run.record.deployment_id == first.id]
    kill(four, 1)
    wait_until(lambda: all(run.trace().interruptions for run in lost), 30)
    as_undisturbed(four, runs, WISHES)
    for run in lost:
        assert interrupted(run) == f"its replica took over: layers 2–3 on {four.nodes[3].hostname}"
        assert run.trace().interruptions[0].exact
        assert run.record.deployment_id == second.id
    assert not any(run.trace().interruptions for run in runs if run not in lost)
    told = [event.message for event in four.controller.registry.events.list()]
    assert any(f"of {MODEL} went on after" in sentence and "layers 2–3" in sentence for sentence in told)


def test_who_is_cancelled_on_the_way_to_the_replica_is_not_computed_there(four: System) -> None:
    first = deploy(four, 0, 1)
    second = replica(four, 2, 3)
    runs = [four.begin(MODEL, prompt, **wish) for prompt, wish in WISHES]
    wait_until(lambda: all(len(run.token_ids) >= 5 for run in runs))
    assert set(where(runs)) == {first.id, second.id}, "those that come at once are shared out, too"
    one = four.controller.deployments.pipeline(first.id)
    assert one is not None
    *before, last = [run for run in runs if run.record.deployment_id == first.id]
    assert before

    async def lost_and_cancelled() -> None:
        one.interrupt(NodeError("It is said to be lost.", kind="lost"))
        await last.cancel()  # while those before it are started

    four.run(lost_and_cancelled())
    wait_until(lambda: all(run.trace().interruptions for run in before), 30)
    end(four, runs)
    assert {run.record.deployment_id for run in before} == {second.id}
    assert last.record.status is RequestStatus.CANCELLED
    assert last.record.deployment_id == first.id, "it was never started there"


def test_one_that_was_lost_is_mended_while_the_other_answers_and_then_takes_its_share_again(four: System) -> None:
    first = deploy(four, 0, 1)
    second = replica(four, 2, 3)
    runs = [four.begin(MODEL, prompt, **wish) for prompt, wish in WISHES[:4]]
    wait_until(lambda: all(len(run.token_ids) >= 5 for run in runs))
    lost = [run for run in runs if run.record.deployment_id == first.id]
    kill(four, 0)
    wait_until(lambda: all(run.trace().interruptions for run in lost), 30)
    as_undisturbed(four, runs, WISHES[:4])
    four.run(four.controller.nodes.revive(four.nodes[0].id))
    wait_until(lambda: four.controller.deployments.pipeline(first.id).broken is None, 30)  # type: ignore[union-attr]
    runs = [four.begin(MODEL, prompt, **wish) for prompt, wish in WISHES[:4]]
    wait_until(lambda: all(run.token_ids for run in runs))
    assert set(where(runs)) == {first.id, second.id}
    end(four, runs)


def test_what_is_left_of_two_keeps_the_weights_that_they_shared(four: System) -> None:
    first = deploy(four, 0, 1)
    expected = four.answer(MODEL, PROMPT, **LONG)
    weights = sum(stage.weight_bytes for stage in report(four, four.nodes[0]).stages)
    second = replica(four, 0, 2)
    four.run(four.controller.undeploy(first.id))
    held = report(four, four.nodes[0])
    assert [(stage.deployment, stage.weight_bytes) for stage in held.stages] == [(second.id, weights)]
    check(four.answer(MODEL, PROMPT, **LONG), expected)
    four.run(four.controller.undeploy(second.id))
    assert report(four, four.nodes[0]).memory_used == 0


def test_in_half_precision_answers_that_were_promised_to_the_bit_wait_for_their_own_layers(four: System) -> None:
    first = deploy(four, 0, 1, dtype="bfloat16", recovery="exact")
    replica(four, 0, 2)
    runs = [four.begin(MODEL, prompt, **wish) for prompt, wish in WISHES[:2]]
    wait_until(lambda: all(len(run.token_ids) >= 5 for run in runs))
    lost = next(run for run in runs if run.record.deployment_id == first.id)
    kill(four, 1)
    wait_until(lambda: lost.trace().interruptions, 30)
    as_undisturbed(four, runs, WISHES[:2])
    assert lost.record.deployment_id == first.id and "its replica" not in interrupted(lost)


def test_nodes_are_found_where_none_is_named_and_what_cannot_be_is_said(four: System) -> None:
    with pytest.raises(PlacementError, match="no replica"):
        replica(four, 0, 1)
    deploy(four, 0, 1)
    with pytest.raises(PlacementError, match="already"):
        replica(four, 0, 1)
    with pytest.raises(PlacementError, match="3 nodes are named for the 2 stages"):
        replica(four, 0, 1, 2)
    with pytest.raises(BadInput, match="the numbers"):
        four.run(four.controller.deploy(MODEL, replica=True, serving=ServingWish(dtype="bfloat16")))
    found = replica(four)
    shards = four.controller.registry.shards.list(deployment_id=found.id)
    assert {shard.node_id for shard in shards} <= {four.nodes[2].id, four.nodes[3].id}


def test_a_request_goes_where_it_gets_the_largest_share_of_the_speed() -> None:
    assert best([Choice("a", 2, 30.0), Choice("b", 0, 12.0)]).deployment == "b"  # 10 against 12
    assert best([Choice("a", 1, 30.0), Choice("b", 0, 12.0)]).deployment == "a"
    assert best([Choice("a", 0, None), Choice("b", 1, 12.0)]).deployment == "a"
    assert best([Choice("a", 1, None), Choice("b", 0, None)]).deployment == "b"
    # A chat goes on where it was, unless that is far busier.
    assert best([Choice("a", 0, 10.0), Choice("b", 0, 10.0, known=0.9)]).deployment == "b"
    assert best([Choice("a", 0, 10.0), Choice("b", 2, 10.0, known=0.9)]).deployment == "a"
