"""An agent that is kept: its key stays with its place, and it leaves with who keeps it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.cli.programs import runs
from tests.waiting import wait_until
from tests.warm import handed_on
from worker_agent.host.keeper import FAILED, AgentKeeper, KeepWish, Kept
from worker_agent.wire.errors import AgentError
from worker_agent.wire.keys import KeyPair

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDBOARD_HOME", str(tmp_path))


def wish(place: str, *others: str, **more: object) -> dict[str, object]:
    wanted = KeepWish(KeyPair.make().public, place, "127.0.0.1", others=others, threads=1, memory=10**8)
    return msgspec.to_builtins(wanted) | more  # type: ignore[no-any-return]


def told(keeper: AgentKeeper) -> Kept:
    return msgspec.convert(keeper.facts(), Kept)


def test_an_agent_has_the_key_and_the_port_of_its_place_and_the_next_place_takes_over_what_is_left(
    tmp_path: Path,
) -> None:
    first = AgentKeeper(wish("one"))
    before = told(first)
    first.stop()
    assert not runs(before.pid)
    again = AgentKeeper(wish("one"))
    assert (told(again).public_key, told(again).address) == (before.public_key, before.address)
    beside = AgentKeeper(wish("two", "one"))
    assert told(beside).public_key != before.public_key, "that one's folder is in use"
    beside.stop(forget=True)
    again.stop()
    assert [folder.name for folder in (tmp_path / "ray").iterdir()] == ["ray-one"]
    later = AgentKeeper(wish("three", "four"))
    assert told(later).public_key == before.public_key, "its place is no more, and its disk is the same"
    later.stop()


def test_an_agent_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"did not come up: it ended with status 2[\s\S]*--device"):
        AgentKeeper(wish("one", device="nonsense"))


def test_agent_and_keeper_end_together_whichever_is_killed() -> None:
    program = (
        "import json, sys, time; from tests import warm; from worker_agent.host.keeper import AgentKeeper;"
        "warm.begin_in_program(); keeper = AgentKeeper(json.loads(sys.argv[1]));"
        "print(json.dumps(keeper.facts()), flush=True); time.sleep(600)"
    )
    environment = {**os.environ, **handed_on(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, msgspec.json.encode(wish("one")).decode()]

    def kept() -> tuple[subprocess.Popen[bytes], int]:
        keeper = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert keeper.stdout is not None
        pid = msgspec.json.decode(keeper.stdout.readline(), type=Kept).pid
        keeper.stdout.close()
        return keeper, pid

    keeper, agent = kept()
    keeper.kill()
    keeper.wait(10)
    wait_until(lambda: not runs(agent), 20)
    keeper, agent = kept()
    os.kill(agent, 9)
    assert keeper.wait(20) == FAILED
