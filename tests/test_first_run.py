"""From nothing to a first answer: what is there is taken, what is not is made, and what was made can go again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.cluster.launching import LaunchedAgent, LocalNode
from app.controller import Controller
from app.first_run import TakenAgents, deploy_over, give_back, take_local_agents
from app.registry import NodeRecord
from app.runs.trace import Origin
from tests.ui.simulated import node_record


@dataclass
class Machine:
    """Stands for a controller: nodes of this machine and whether their agents run, and what was done to them."""

    agents: dict[int, bool]
    draining: tuple[int, ...] = ()
    deployed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    done: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.nodes = SimpleNamespace(local=self._local)
        self.deployments = SimpleNamespace(ready=self._ready)
        known = SimpleNamespace(shards=SimpleNamespace(list=self._shards))
        self.registry = SimpleNamespace(call=lambda ask: asyncio.to_thread(ask, known))

    async def _ready(self, model: str) -> list[Any]:
        return [SimpleNamespace(id=each) for each in self.deployed]

    async def _local(self) -> dict[int, LocalNode]:
        return {
            id: LocalNode(
                replace(node_record(id, here=runs), is_active=runs, draining=id in self.draining),
                cast(LaunchedAgent, None),
                runs,
            )
            for id, runs in self.agents.items()
        }

    def _shards(self, deployment_id: str) -> list[Any]:
        return [SimpleNamespace(node_id=node) for node in self.deployed[deployment_id]]

    async def launch_local(self, count: int, *, keep: bool, origin: Origin) -> list[NodeRecord]:
        self.done.append(("launch", count, keep))
        return [node_record(100 + number, here=True) for number in range(count)]

    async def start_agent(self, node: int, *, origin: Origin) -> NodeRecord:
        self.done.append(("start", node))
        return node_record(node, here=True)

    async def stop_agent(self, node: int) -> None:
        self.done.append(("stop", node))

    async def remove_node(self, node: str) -> None:
        self.done.append(("remove", node))

    async def deploy(self, model: str, *, nodes: list[int], **others: Any) -> Any:
        self.done.append(("deploy", model, nodes))
        return SimpleNamespace(id="new")


def take(machine: Machine, count: int, **how: Any) -> TakenAgents:
    return asyncio.run(take_local_agents(cast(Controller, machine), count, **how))


@pytest.mark.parametrize(
    ("agents", "draining", "nodes", "done"),
    [
        ({}, (), [100, 101], [("launch", 2, True)]),
        ({1: True, 2: True, 3: True}, (), [1, 2], []),
        ({1: True, 2: False}, (), [1, 2], [("start", 2)]),
        ({1: False}, (), [1, 100], [("launch", 1, True), ("start", 1)]),
        ({1: False, 2: True, 3: True}, (), [2, 3], []),
        ({1: True, 2: True}, (2,), [1, 100], [("launch", 1, True)]),
    ],
)
def test_agents_that_run_are_taken_stopped_ones_run_again_and_the_rest_is_made(
    agents: dict[int, bool], draining: tuple[int, ...], nodes: list[int], done: list[tuple[Any, ...]]
) -> None:
    machine, told = Machine(agents, draining), list[int]()
    taken = take(machine, 2, on_starting=told.append)
    assert [node.id for node in taken.nodes] == nodes
    assert sorted(machine.done) == sorted(done)
    assert told == ([sum(each[1] if each[0] == "launch" else 1 for each in done)] if done else [])


def test_none_are_taken_where_none_are_wanted() -> None:
    machine = Machine({1: True, 2: False})
    assert take(machine, 0).nodes == () and machine.done == []


def test_what_was_made_goes_and_what_was_stopped_is_stopped_again() -> None:
    machine = Machine({1: True, 2: False})
    taken = take(machine, 3, keep=False)
    assert ("launch", 1, False) in machine.done
    machine.done.clear()
    asyncio.run(give_back(cast(Controller, machine), taken))
    assert machine.done == [("remove", "100"), ("stop", 2)]


@pytest.mark.parametrize(("nodes", "is_new"), [([1, 2], False), ([2, 1], False), ([1], True), ([1, 2, 3], True)])
def test_a_model_that_is_deployed_over_these_nodes_is_not_deployed_again(nodes: list[int], is_new: bool) -> None:
    machine = Machine({}, deployed={"old": (1, 2)})
    found = asyncio.run(deploy_over(cast(Controller, machine), "small", nodes))
    assert found.id == ("new" if is_new else "old")
    assert machine.done == ([("deploy", "small", nodes)] if is_new else [])
