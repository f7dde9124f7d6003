"""The lines between agents and to the controller do what lines do: answers go on, and their tokens are the same."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.inference.request_run import RequestRun
from app.paths import Home
from app.registry import RequestRecord
from tests.e2e.conftest import System, open_system
from tests.faults.conftest import MODEL, deploy
from tests.faults.relay import BOTH, EVERYBODY, Damage, Party, Relay, Relays, flipped, shortened
from tests.faults.test_losses import LONG, PROMPT, check
from tests.waiting import wait_until

HOP_SECONDS = 0.01
"""How long each message takes from one agent to the next: an answer then lasts some seconds, and costs no more."""


@dataclass
class Lines:
    """Four agents behind relays; the model over the first three of them."""

    system: System
    relays: list[Relay]
    expected: RequestRecord

    def begin(self) -> RequestRun:
        run = self.system.begin(MODEL, PROMPT, **LONG)
        wait_until(lambda: len(run.token_ids) >= 7)
        return run

    def check(self, run: RequestRun) -> None:
        check(self.system.finish(run), self.expected)

    def all_up(self) -> bool:
        health = self.system.controller.nodes.health
        return all(health.is_alive(node.id) for node in self.system.nodes)


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Lines]:
    root = tmp_path_factory.mktemp("links")
    with open_system(Home(root=root, models=root / "models").create()) as system, Relays() as relays:
        system.launch(4)
        system.run(system.controller.add_model(str(tiny), name=MODEL))
        before = [relays.before(f"{node.ip_address}:{node.port}") for node in system.nodes]
        for node, relay in zip(system.nodes, before, strict=True):
            system.run(system.controller.add_node(relay.address, node.public_key))
        deploy(system, 0, 1, 2)
        yield Lines(system, before, system.answer(MODEL, PROMPT, **LONG))


@pytest.fixture
def lines(relayed: Lines) -> Iterator[Lines]:
    """The model over the first three, wherever the test before has left it, and messages that take their time."""
    system = relayed.system
    wait_until(relayed.all_up, 30)
    (record,) = system.run(system.controller.deployments.ready())
    shards = system.controller.registry.shards.list(deployment_id=record.id)
    if [shard.node_id for shard in shards] != [node.id for node in system.nodes[:3]]:
        system.run(system.controller.undeploy(record.id))
        deploy(system, 0, 1, 2)
    with contextlib.ExitStack() as slow:
        for relay in relayed.relays:
            slow.enter_context(relay.delayed(HOP_SECONDS))
        yield relayed


@pytest.mark.parametrize("party", EVERYBODY)
@pytest.mark.parametrize("node", [0, 1])
def test_a_line_that_is_dead_for_a_moment_both_ways_or_one_way_loses_nothing(
    lines: Lines, node: int, party: Party
) -> None:
    run = lines.begin()
    for ways, seconds in [(BOTH, 2.0), (("there",), 1.0), (("back",), 1.0)]:
        before = len(run.token_ids)
        with lines.relays[node].hold([party], ways):
            time.sleep(seconds)
        wait_until(lambda before=before: run.is_over or len(run.token_ids) >= before + 3)
    lines.check(run)
    assert run.trace().interruptions == ()


@pytest.mark.parametrize("party", EVERYBODY)
def test_a_line_that_is_cut_and_comes_back_loses_nothing(lines: Lines, party: Party) -> None:
    run = lines.begin()
    with lines.relays[0].cut(party), lines.relays[1].cut(party):
        time.sleep(1)
    lines.check(run)


@pytest.mark.long
def test_lines_that_break_every_half_second_lose_nothing(lines: Lines) -> None:
    run = lines.begin()
    ends = time.monotonic() + 20
    while not run.is_over and time.monotonic() < ends:
        for relay in lines.relays:
            relay.reset()
        time.sleep(0.5)
    assert sum(relay.resets for relay in lines.relays) >= 12
    lines.check(run)


@pytest.mark.long
@pytest.mark.parametrize("damage", [flipped, shortened])
def test_a_byte_that_is_another_or_missing_breaks_the_line_and_no_answer(lines: Lines, damage: Damage) -> None:
    relay, seen = lines.relays[1], []
    for party in EVERYBODY:
        for way in BOTH:
            run, before = lines.begin(), relay.damaged
            relay.damage(party, way, damage)
            wait_until(lambda before=before: relay.damaged > before, 10)
            lines.check(run)
            seen.append((party, way))
    assert len(seen) == 4


@pytest.mark.long
def test_half_a_minute_without_a_word_to_one_agent_from_the_one_before_it(lines: Lines) -> None:
    run = lines.begin()
    with lines.relays[1].hold(["agents"]):
        wait_at_most(30, run)
    lines.check(run)


@pytest.mark.long
def test_half_a_minute_without_a_word_to_an_agent_from_the_controller(lines: Lines) -> None:
    run = lines.begin()
    with lines.relays[2].hold(["controller"]):
        wait_at_most(30, run)
    lines.check(run)


def wait_at_most(seconds: float, run: RequestRun) -> None:
    """What is not over by then goes on when the line is there again."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: run.is_over, seconds)


@pytest.mark.long
def test_where_one_agent_never_reaches_the_next_one_again_its_layers_go_elsewhere(lines: Lines) -> None:
    for _ in range(4):  # an answer may be over before the line is cut
        run = lines.begin()
        with lines.relays[1].cut("agents"):
            lines.check(run)
        if run.trace().interruptions:
            break
    assert "layers 2–3 went to " in run.trace().interruptions[-1].what
