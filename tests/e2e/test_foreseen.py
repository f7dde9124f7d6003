"""What is predicted of a plan is kept with the deployment and with each request, beside what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from pathlib import Path

import pytest

from app.runs.foreseen import compared
from app.runs.trace import DeploymentTrace, RequestTrace, unpack
from app.serving import ServingWish
from tests.e2e.conftest import System
from tests.worker_agent.tiny_models import make_model

SPEEDS = [{"dtype": "float32", "read_bytes_per_second": 1e10, "flops_per_second": 5e10}]


@pytest.fixture
def two(shared: System, tmp_path: Path) -> Iterator[list[int]]:
    """Two nodes with a tiny model, which say how fast they are: agents of tests do not measure themselves."""
    make_model("llama", tmp_path / "tiny")
    shared.run(shared.controller.add_model(str(tmp_path / "tiny"), name="foreseen"))
    nodes = shared.controller.registry.nodes
    before = {node.id: nodes.get(node.id).capacities for node in shared.nodes[:2]}
    for id, capacities in before.items():
        nodes.update(id, capacities={**capacities, "speeds": SPEEDS})
    yield list(before)
    for id, capacities in before.items():
        nodes.update(id, capacities=capacities)
    shared.run(shared.controller.remove_model("foreseen"))


def test_a_request_keeps_what_was_predicted_for_its_prompt_beside_what_came(shared: System, two: list[int]) -> None:
    serving = ServingWish(dtype="float32", context=128, kv_tokens=256)
    planned = shared.run(shared.controller.plan("foreseen", nodes=two, serving=serving))
    assert planned.foreseen is not None and planned.foreseen.prompt_tokens == 256
    assert "one machine" in planned.foreseen.assumed[0]
    shared.run(shared.controller.measure_links(two))
    again = shared.run(shared.controller.plan("foreseen", nodes=two, serving=serving))
    assert again.foreseen is not None and again.foreseen.assumed == ()
    deployed = shared.run(shared.controller.deploy("foreseen", nodes=two, serving=serving))
    try:
        answer = shared.answer("foreseen", list(range(1, 21)), max_tokens=8, ignore_eos=True)
        kept = shared.controller.registry.traces.get("request", str(answer.id))
        made = shared.controller.registry.traces.get("deployment", deployed.id)
        assert kept is not None and made is not None
        trace, of_deployment = unpack(kept), unpack(made)
        assert isinstance(trace, RequestTrace) and isinstance(of_deployment, DeploymentTrace)
        assert of_deployment.foreseen is not None and of_deployment.foreseen.prompt_tokens == 256
        assert trace.foreseen is not None and trace.foreseen.prompt_tokens == 20
        assert trace.foreseen.first_token_us < of_deployment.foreseen.first_token_us
        found = compared(trace)
        assert found is not None and found.why_not == ""
        assert found.tokens_per_second and found.first_token_us and found.speed_error is not None
    finally:
        shared.run(shared.controller.undeploy(deployed.id))


def test_a_wrong_figure_is_corrected_by_what_a_run_took(shared: System, two: list[int]) -> None:
    nodes, comparisons = shared.controller.registry.nodes, shared.controller.registry.comparisons
    wrong = [{**SPEEDS[0], "read_bytes_per_second": 1e6}]
    for id in two:
        nodes.update(id, capacities={**nodes.get(id).capacities, "speeds": wrong})
    serving = ServingWish(dtype="float32", context=128, kv_tokens=256)
    deployed = shared.run(shared.controller.deploy("foreseen", nodes=two, serving=serving))
    try:
        errors, speeds = [], []
        for first in (1, 31):
            answer = shared.answer("foreseen", list(range(first, first + 20)), max_tokens=8, ignore_eos=True)
            kept = shared.controller.registry.traces.get("request", str(answer.id))
            assert kept is not None
            trace = unpack(kept)
            assert isinstance(trace, RequestTrace) and trace.foreseen is not None
            found = compared(trace)
            assert found is not None and found.why_not == "" and found.tokens_per_second
            errors.append(abs(log(trace.foreseen.tokens_per_second / found.tokens_per_second)))
            speeds.append(trace.foreseen)
        before, after = speeds
        assert errors[1] < errors[0]
        assert after.corrected_runs == before.corrected_runs + 1 and after.correction < 0.7
        planned = shared.run(shared.controller.plan("foreseen", nodes=two, serving=serving))
        assert planned.foreseen is not None and planned.foreseen.corrected_runs == before.corrected_runs + 2
        # A machine whose figures are so much better is another one.
        for id in two:
            nodes.update(id, capacities={**nodes.get(id).capacities, "speeds": SPEEDS})
        anew = shared.run(shared.controller.plan("foreseen", nodes=two, serving=serving))
        assert anew.foreseen is not None and anew.foreseen.correction > after.correction
        assert {each.node_id for each in comparisons.list()} >= set(two)
    finally:
        shared.run(shared.controller.undeploy(deployed.id))


def test_nothing_is_predicted_of_nodes_that_have_not_measured_themselves(shared: System, tmp_path: Path) -> None:
    make_model("llama", tmp_path / "tiny")
    shared.run(shared.controller.add_model(str(tmp_path / "tiny"), name="unforeseen"))
    try:
        planned = shared.run(shared.controller.plan("unforeseen", serving=ServingWish(context=128, kv_tokens=256)))
        assert planned.foreseen is None
    finally:
        shared.run(shared.controller.remove_model("unforeseen"))
