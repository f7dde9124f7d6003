"""Messages between agents, and to the controller, that are lost, come twice, or in another order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest

from app.registry import NodeRecord
from tests.e2e.conftest import System
from tests.faults.conftest import MODEL, deploy
from tests.faults.test_losses import LONG, PROMPT, interrupted
from tests.faults.unruly_agent import Habits
from tests.warm import UNRULY
from tests.worker_agent.agent_process import AgentProcess

pytestmark = pytest.mark.long

WISHES = [(PROMPT, LONG), ([*PROMPT, 20], {**LONG, "temperature": 1.0, "seed": 7}), ([30, 31], LONG)]

Start = Callable[[Habits], AgentProcess]


@pytest.fixture
def start(four: System, tmp_path: Path) -> Iterator[Start]:
    """Starts agents with habits, as nodes behind the four."""
    trusted = f"--trust={four.controller.identity.keys.public}"
    added: list[NodeRecord] = []
    with ExitStack() as agents:

        def start_one(habits: Habits) -> AgentProcess:
            home = tmp_path / f"unruly-{len(added)}"
            agent = AgentProcess.start(home, trusted, program=(UNRULY, json.dumps(asdict(habits))))
            agents.callback(lambda: agent.stop())
            added.append(four.run(four.controller.add_node(agent.address, agent.public_key)))
            four.nodes.append(added[-1])
            return agent

        yield start_one
        for record in four.run(four.controller.deployments.ready()):
            four.run(four.controller.undeploy(record.id))
        for node in added:
            four.run(four.controller.remove_node(str(node.id)))
            four.nodes.remove(node)


def ids(system: System) -> list[tuple[int, ...]]:
    runs = [system.begin(MODEL, prompt, **wish) for prompt, wish in WISHES]
    return [system.finish(run).token_ids for run in runs]


@pytest.fixture(scope="module")
def expected(agents: System) -> list[tuple[int, ...]]:
    """What comes of all wishes where nothing happens."""
    deploy(agents, 0, 1, 2)
    return ids(agents)


def test_what_is_lost_doubled_late_or_overtaken_changes_no_token(
    expected: list[tuple[int, ...]], four: System, start: Start
) -> None:
    agents = [start(Habits(seed=seed, lost=0.02, doubled=0.2, late=0.2, overtaken=0.02)) for seed in (6, 7, 8)]
    deploy(four, 4, 5, 6)
    assert ids(four) == expected
    for habit in ("lost", "doubled", "late", "overtaken"):
        assert sum(agent.log.count(f"unruly: {habit}") for agent in agents) > 0


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_an_agent_that_is_killed_between_computing_and_sending_costs_no_token(
    expected: list[tuple[int, ...]], four: System, start: Start, stage: int
) -> None:
    agent = start(Habits(dies_before=20))
    seats: Sequence[int] = [4 if number == stage else number for number in range(3)]
    deploy(four, *seats)
    run = four.begin(MODEL, PROMPT, **LONG)
    record = four.finish(run)
    assert (record.error, record.token_ids) == (None, expected[0])
    assert "unruly: killed" in agent.log and f"layers {2 * stage}–{2 * stage + 1} went to " in interrupted(run)
