"""A child that the warm parent forked is the process that `python -m …` would have been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.children.starting import child_environment, start_child
from tests import warm
from tests.warm import starting_cold

pytestmark = pytest.mark.skipif(not warm.POSSIBLE, reason="children are forked from a warm parent on Linux only")

PROGRAM = warm.ROOT / "tests" / "mirror.py"
"""The mirror as commands are: a file."""


@pytest.fixture(autouse=True)
def mirror_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "MODULES", warm.MODULES | {"tests.mirror"})
    monkeypatch.setattr(warm, "PROGRAMS", warm.PROGRAMS | {PROGRAM})


@pytest.fixture(params=["warm", "cold"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with starting_cold() if request.param == "cold" else nullcontext():
        yield request.param


@pytest.fixture(params=[("-m", "tests.mirror"), (str(PROGRAM),)], ids=["module", "program"])
def mirror(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


def start(
    how: str, *arguments: str, mirror: tuple[str, ...] = ("-m", "tests.mirror"), **options: Any
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *mirror, how, *arguments], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def told(cold: bool, **options: Any) -> dict[str, Any]:
    with starting_cold() if cold else nullcontext():
        process = start("tell", "two words", "ü", **options)
    said, wrong = process.communicate("what was asked", timeout=60)
    assert (process.returncode, wrong) == (7, "said to the error stream\n"), wrong
    facts: dict[str, Any] = json.loads(said)
    assert facts.pop("pid") == process.pid
    assert facts["heard"] == "what was asked" and facts["parent"] == os.getpid()
    if facts["session"] == process.pid:
        facts["session"] = facts["group"] = "its own"
    return facts


@pytest.mark.parametrize("session", [True, False])
def test_a_child_of_the_warm_parent_is_as_one_that_was_started_anew(
    tmp_path: Path, session: bool, mirror: tuple[str, ...]
) -> None:
    environment = {**os.environ, "MIRRORED": "yes", "PYTHONPATH": str(warm.ROOT)}
    options = {"cwd": tmp_path, "env": environment, "start_new_session": session, "mirror": mirror}
    forked = told(cold=False, **options)
    assert forked == told(cold=True, **options)
    assert forked["handed_on"] == "yes\n" and forked["folder"] == str(tmp_path)
    assert (forked["session"] == "its own") is session


def test_the_programs_own_way_to_start_a_child_is_met_as_well() -> None:
    found = []
    for cold in (False, True):
        with starting_cold() if cold else nullcontext():
            process = start_child(
                "tests.mirror", ["tell"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        facts = json.loads(process.communicate(timeout=60)[0])
        assert facts.pop("pid") == facts.pop("session") == facts.pop("group") == process.pid
        found.append(facts)
    assert found[0] == found[1]


def test_what_this_process_ignores_and_masks_is_handed_on() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = os.umask(0o027)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        forked = told(cold=False, env=dict(os.environ))
        assert forked == told(cold=True, env=dict(os.environ))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        os.umask(mask)
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGHUP, before[1])
    assert forked["signals"][str(int(signal.SIGINT))] == "SIG_IGN"


def test_an_error_ends_it_as_it_ends_any_program(way: str) -> None:
    process = start("fail")
    said, wrong = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "")
    assert wrong.startswith("Traceback (most recent call last):\n") and wrong.endswith("\nValueError: it broke\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_is_its_status(way: str, number: signal.Signals, mirror: tuple[str, ...]) -> None:
    with start("wait", mirror=mirror) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, wrong = process.communicate(timeout=30)
        assert process.returncode == -number, wrong


def test_an_interrupt_is_heard_as_one(way: str, mirror: tuple[str, ...]) -> None:
    with start("wait", mirror=mirror) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, wrong = process.communicate(timeout=30)
        assert process.returncode != 0 and wrong.endswith("\nKeyboardInterrupt\n")


def test_nothing_is_left_of_it_and_others_orphans_are_not_taken_in(way: str) -> None:
    process = start("tell")
    process.communicate("", timeout=60)
    assert not psutil.pid_exists(process.pid)
    orphaning = "import subprocess, sys; print(subprocess.Popen(['sleep', '30'], stdout=subprocess.DEVNULL).pid)"
    orphan = psutil.Process(int(subprocess.check_output([sys.executable, "-c", orphaning])))
    try:
        assert orphan.ppid() != os.getpid()
    finally:
        orphan.kill()


def test_an_environment_that_changes_what_is_imported_is_met_by_a_new_process() -> None:
    facts = told(cold=False, env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"})
    assert facts["streams"][1][0] == "iso8859-1"


@pytest.mark.parametrize("environment", [lambda: None, child_environment], ids=["as here", "as the program has it"])
def test_what_takes_seconds_to_import_is_there_already(
    way: str, environment: Callable[[], dict[str, str] | None]
) -> None:
    said, wrong = start("warm", env=environment()).communicate(timeout=60)
    assert said == ("True\n" if way == "warm" else "False\n"), wrong


def test_another_program_in_pythons_place_is_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/echo")
    assert start("warm").communicate(timeout=60)[0] == "-m tests.mirror warm\n"


def test_what_commands_import_is_there_already_and_torch_is_not(way: str) -> None:
    said = [start(how, mirror=(str(PROGRAM),)).communicate(timeout=60) for how in ("light", "warm")]
    assert said == [("True\n" if way == "warm" else "False\n", ""), ("False\n", "")]


def test_a_commands_own_children_start_warm_too_and_end_as_it_sees_any_end() -> None:
    found = []
    for cold in (False, True):
        with starting_cold() if cold else nullcontext():
            process = start("children", mirror=(str(PROGRAM),), env={**os.environ, "PYTHONPATH": str(warm.ROOT)})
        said, wrong = process.communicate(timeout=120)
        assert wrong == ""
        found.append(json.loads(said))
    assert [facts.pop("warm") for facts in found] == [True, False]
    assert found[0] == found[1]
    assert found[0]["statuses"] == found[0]["polled"] == [7, 1, -signal.SIGTERM, -signal.SIGKILL]
    assert found[0]["left"] == []
