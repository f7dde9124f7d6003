"""Ghosts among the nodes: which are named, which are not, and what becomes of them by command."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.cluster.controller_identity import ControllerIdentity
from app.cluster.ghosts import SILENT_DAYS, GhostKind, ghosts_of
from app.cluster.node_state import NOTHING, Heard
from app.paths import Home
from app.registry.records import NodeRecord
from tests.cli.programs import ROOT, CommandLine

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
UP, SILENT, OTHER_KEY = (
    Heard(alive=True),
    Heard(alive=False, trouble="timeout"),
    Heard(alive=False, trouble="wrong_key"),
)


def node(
    id: int, *, name: str = "", last: timedelta | None = timedelta(0), added: timedelta = timedelta(30),
    here: bool = False,
) -> NodeRecord:  # fmt: skip
    """`last` and `added`: how long ago it was heard of, and registered."""
    values = {field.name: None for field in dataclasses.fields(NodeRecord)}
    given = {
        "id": id, "hostname": name or f"node-{id}", "ip_address": f"10.0.0.{id}", "port": 7600,
        "last_heartbeat": None if last is None else NOW - last, "created_at": NOW - added,
        "local_pid": 4711 if here else None,
    }  # fmt: skip
    return NodeRecord(**{**values, **given})  # type: ignore[arg-type]


def kinds(nodes: list[NodeRecord], *heard: Heard) -> dict[int, GhostKind]:
    by_id = {node.id: each for node, each in zip(nodes, heard, strict=True)}
    return {ghost.node_id: ghost.kind for ghost in ghosts_of(nodes, by_id, NOW)}


@pytest.mark.parametrize(
    ("last", "heard", "is_ghost"),
    [
        (timedelta(SILENT_DAYS), SILENT, True),
        (timedelta(SILENT_DAYS) - timedelta(minutes=1), SILENT, False),
        (None, SILENT, True),  # never, and it was added a month ago
        (timedelta(90), UP, False),
        (timedelta(90), NOTHING, False),
        (timedelta(90), dataclasses.replace(SILENT, starting=True), False),
    ],
)
def test_silence_makes_a_ghost_after_a_week_and_only_once_it_was_asked_in_vain(
    last: timedelta | None, heard: Heard, is_ghost: bool
) -> None:
    assert kinds([node(1, last=last)], heard) == ({1: GhostKind.SILENT} if is_ghost else {})


def test_an_agent_of_this_machine_can_be_started_again_and_is_no_ghost() -> None:
    assert kinds([node(1, last=timedelta(90), here=True)], Heard(alive=False, trouble="refused")) == {}


def test_a_machine_that_came_again_makes_a_ghost_of_what_it_was() -> None:
    before, again = node(1, name="box", last=timedelta(1)), node(2, name="box", added=timedelta(hours=1))
    assert kinds([before, again], SILENT, UP) == {1: GhostKind.DOUBLE}
    [ghost] = ghosts_of([before, again], {1: SILENT, 2: UP}, NOW)
    assert "node 2 (10.0.0.2:7600)" in ghost.problem and "node remove 1" in ghost.advice


def test_agents_that_once_ran_side_by_side_on_one_machine_are_no_doubles() -> None:
    one, other = node(1, name="box", last=timedelta(hours=1)), node(2, name="box", added=timedelta(20))
    assert kinds([one, other], SILENT, UP) == {}, "the second was there already when the first fell silent"
    assert kinds([one, other], UP, UP) == kinds([one, other], SILENT, SILENT) == {}


def test_another_agent_at_its_address_makes_a_ghost_at_once() -> None:
    assert kinds([node(1), node(2, here=True)], OTHER_KEY, OTHER_KEY) == {1: GhostKind.NEW_KEY, 2: GhostKind.NEW_KEY}


def test_a_machine_that_its_launcher_has_no_more_makes_a_ghost_once_it_is_silent() -> None:
    gone = dataclasses.replace(SILENT, gone="Ray has no node 1f2e any more, on which this agent ran.")
    assert kinds([node(1), node(2)], gone, dataclasses.replace(gone, alive=True)) == {1: GhostKind.GONE}


@contextmanager
def agent(home: Path, port: int, trust: str) -> Iterator[str]:
    """A real one in a process of its own; its public key."""
    ready = home.with_suffix(".ready")
    process = subprocess.Popen(
        [sys.executable, "-m", "worker_agent", "--listen", f"127.0.0.1:{port}", "--home", str(home),
         f"--trust={trust}", "--ready-file", str(ready), "--threads", "1", "--memory", "100MB"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield (home / "agent.pub").read_text().strip()
    finally:
        process.terminate()
        process.wait(30)


def test_an_agent_that_was_set_up_anew_is_named_by_node_list_and_removed_by_command(tmp_path: Path) -> None:
    shell = CommandLine(tmp_path / "home")
    shell.run("node", "list")
    trust = ControllerIdentity.of(Home(tmp_path / "home", tmp_path / "home" / "models")).keys.public
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with agent(tmp_path / "first", port, trust) as key:
        shell.run("node", "add", f"127.0.0.1:{port}", f"--key={key}")
        [there] = shell.json("node", "list")
        assert there["ghost"] is None
        shell.run("node", "remove", "--ghosts")
        assert [each["id"] for each in shell.json("node", "list")] == [there["id"]], "it answers, so it stays"
    with agent(tmp_path / "second", port, trust):
        [ghost] = shell.json("node", "list")
        assert ghost["ghost"]["kind"] == "new_key" and f"127.0.0.1:{port}" in ghost["ghost"]["problem"]
        shell.run("node", "remove", "--ghosts")
        assert shell.json("node", "list") == []


def test_removing_needs_one_node_or_the_ghosts(tmp_path: Path) -> None:
    shell = CommandLine(tmp_path / "home")
    for arguments in ((), ("1", "--ghosts")):
        assert "Name one node, or give --ghosts alone." in shell.run("node", "remove", *arguments, code=2)
