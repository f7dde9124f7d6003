"""A plan without nodes named goes where the measured links are short, and the command says why."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.root import app
from app.control.server import ControlServer
from tests.e2e.conftest import System
from tests.e2e.test_foreseen import SPEEDS

SHORT, LONG = 0.002, 0.2


@pytest.fixture
def command(shared: System, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """A command that finds the shared controller at its door, with a tiny model in its library and nodes that say how
    fast they are."""
    registry = shared.controller.registry
    before = {node.id: registry.nodes.get(node.id).capacities for node in shared.nodes}
    for id, capacities in before.items():
        registry.nodes.update(id, capacities={**capacities, "speeds": SPEEDS})
    shared.run(shared.controller.add_model(str(tiny), name="planned"))
    door = ControlServer(shared.controller)
    shared.run(door.open())
    monkeypatch.setenv("SHARDBOARD_HOME", str(shared.home.root))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["plan", "planned", "--dtype", "float32", *arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout + result.stderr

    yield run
    shared.run(door.close())
    shared.run(shared.controller.remove_model("planned"))
    for id, capacities in before.items():
        registry.nodes.update(id, capacities=capacities)
    shared.run(shared.controller.measure_links(list(before)))


def put_links(shared: System, near: set[int]) -> None:
    """Say that two nodes are close to each other, and the third is far from both."""
    for one, other in itertools.permutations([node.id for node in shared.nodes], 2):
        rtt = SHORT if {one, other} == near else LONG
        shared.controller.registry.links.add(one, other, outcome="measured", rtt=rtt, bytes_per_second=1e8)


def test_a_model_that_one_node_cannot_hold_goes_to_those_that_are_close_to_each_other(
    shared: System, command: Callable[..., str]
) -> None:
    first, second, third = (node.id for node in shared.nodes)
    description = shared.controller.library.get("planned")
    free = min(each.free_memory for each in shared.run(shared.controller.deployments.placing.capacities()))
    tokens = str(int(1.5 * free / description.kv_bytes_per_token("float32")))
    for near in ({second, third}, {first, third}):
        put_links(shared, near)
        plan = json.loads(command("--kv-tokens", tokens, "--json"))
        assert {stage["node"]["node_id"] for stage in plan["stages"]} == near and plan["aim"] == "fastest"
        assert {reason["node_id"] for reason in plan["reasons"]} == {first, second, third}
    told = command("--kv-tokens", tokens)
    left = next(line for line in told.splitlines() if f"({second}) is left out" in line)
    assert "its link would cost" in left and "tokens/s" in left
    assert "takes layers" in told and "Fewer machines" not in told, "agents of one machine are one machine"
    assert len(json.loads(command("--aim", "fits", "--json"))["stages"]) == 3
