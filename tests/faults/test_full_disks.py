"""Disks that are full: an agent's when it is to take over a lost stage, and the controller's while answers run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.inference import recovery
from app.paths import Home
from tests.e2e.conftest import System, open_system
from tests.faults.conftest import MODEL, deploy
from tests.faults.test_losses import LONG, PROMPT, check, interrupted, kill
from tests.sharding.test_disk_full import MEGABYTE
from tests.waiting import wait_until
from tests.worker_agent.agent_process import running_agent

pytestmark = pytest.mark.long


def fill(folder: Path) -> Path:
    """Take every byte that is left there; the file that does."""
    hog = folder / "somebody-else"
    with hog.open("wb", buffering=0) as file:
        for size in (MEGABYTE, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return hog


def test_lost_layers_go_past_an_agent_whose_disk_is_full(four: System, small_disk: Path) -> None:
    trusted = f"--trust={four.controller.identity.keys.public}"
    with running_agent(small_disk / "agent", trusted) as agent:
        cramped = four.run(four.controller.add_node(agent.address, agent.public_key))
        record = deploy(four, 0, 1, 2, wait_seconds=60)
        wish = {**LONG, "max_tokens": 400}
        expected = four.answer(MODEL, PROMPT, **wish)
        others = [str(four.nodes[node].id) for node in (0, 2, 3)]
        hog = fill(small_disk)
        run = four.begin(MODEL, PROMPT, **wish)
        wait_until(lambda: len(run.token_ids) >= 7)
        for node in others:
            four.run(four.controller.drain_node(node))
        kill(four, 1)
        wait_until(lambda: passed_over(four, cramped.id), 30)
        for node in others:
            four.run(four.controller.drain_node(node, False))
        check(four.finish(run), expected)
        assert "layers 2–3 went to " in interrupted(run) and cramped.hostname + " " not in interrupted(run)
        hog.unlink()
        four.run(four.controller.undeploy(record.id))
        four.run(four.controller.remove_node(str(cramped.id)))


def passed_over(system: System, node: int) -> bool:
    """Whether loading has failed there."""
    recovery = system.controller.deployments.mender._recovery
    return system.call(lambda: recovery._is_shunned(node))


@pytest.fixture
def cramped(small_disk: Path, tiny: Path) -> Iterator[System]:
    """A controller and three agents that have 64 MB for all that they write."""
    with open_system(Home(root=small_disk / "home", models=small_disk / "models").create()) as system:
        system.launch(3)
        system.run(system.controller.add_model(str(tiny), name=MODEL))
        yield system
        (small_disk / "somebody-else").unlink(missing_ok=True)


def test_answers_end_though_nothing_can_be_written_and_one_that_lost_a_stage_goes_on_when_there_is_room(
    cramped: System, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "SHUNNED_SECONDS", 2.0)
    deploy(cramped, 0, 1, wait_seconds=60)
    expected = cramped.answer(MODEL, PROMPT, **LONG)
    run = cramped.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 7)
    hog = fill(small_disk)
    cramped.finish(run)
    assert tuple(run.token_ids) == expected.token_ids
    hog.unlink()
    longer = {"max_tokens": 600, "ignore_eos": True}  # filling a disk takes a while
    expected = cramped.answer(MODEL, PROMPT, **longer)
    run = cramped.begin(MODEL, PROMPT, **longer)
    wait_until(lambda: len(run.token_ids) >= 7)
    hog = fill(small_disk)
    kill(cramped, 1)
    wait_until(lambda: passed_over(cramped, cramped.nodes[2].id), 30)
    wait_until(lambda: passed_over(cramped, cramped.nodes[0].id), 30)
    hog.unlink()
    check(cramped.finish(run), expected)
    assert interrupted(run).startswith("layers 3–5 "), "what the first one holds stays, though it took no more"
