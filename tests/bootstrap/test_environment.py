"""Environments as they are really made: complete, cut off, moved, offline."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap.environment import Environment, Stamp, python_version
from bootstrap.ownership import MARK, made_for
from tests.bootstrap.starting import start_agent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="drives the bash scripts")


def test_a_machine_with_only_the_wheel_gets_an_agent_and_the_second_start_is_quick(
    machine_folder: Path, offline: dict[str, str], quick_python: str
) -> None:
    first = start_agent(machine_folder, offline, "--listen", "127.0.0.1:0", "two words")
    assert first.returncode == 0, first.stderr
    assert first.stdout == "agent ['--listen', '127.0.0.1:0', 'two words']\n"
    assert "installing 2 packages" in first.stderr
    log = machine_folder / ".venv-setup.log"
    log.unlink()
    second = start_agent(machine_folder, offline, "again")
    assert (second.stdout, second.stderr) == ("agent ['again']\n", "")
    assert not log.exists(), "pip ran although nothing had changed"

    # Another wheel is installed, also where an earlier version made the environment, which left no mark in it; in a
    # folder of another name everything is made anew.
    (machine_folder / ".venv" / MARK).unlink()
    next(machine_folder.glob("*.whl")).touch()
    assert "up to date" in start_agent(machine_folder, offline).stderr
    assert (machine_folder / ".venv" / MARK).exists()
    moved = machine_folder.rename(machine_folder.with_name("moved"))
    again = start_agent(moved, offline, python=quick_python)
    assert again.returncode == 0, again.stderr
    assert "Setting up" in again.stderr
    assert made_for(moved / ".venv") == str(moved)


def test_an_interrupted_set_up_ends_pip_and_the_next_one_starts_clean(
    machine_folder: Path, offline: dict[str, str], quick_python: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent_index:  # accepts connections and never answers
        waiting = {name: value for name, value in offline.items() if name != "PIP_NO_INDEX"}
        waiting["PIP_INDEX_URL"] = f"http://127.0.0.1:{silent_index.getsockname()[1]}/simple"
        begun = subprocess.Popen(
            ["bash", str(machine_folder / "agent.sh"), "prepare"],
            env={**waiting, "SHARDBOARD_PYTHON": quick_python},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent_index.settimeout(60)
        connection, _ = silent_index.accept()  # pip is under way now
        begun.send_signal(signal.SIGTERM)
        _, said = begun.communicate(timeout=20)
        assert begun.returncode == 130
        assert "The same command goes on from here" in said
        connection.settimeout(20)
        while connection.recv(65536):  # ends when pip is gone
            pass
        connection.close()
    assert not Environment(machine_folder).serves(frozenset())
    after = start_agent(machine_folder, offline, "--version", python=quick_python)
    assert after.returncode == 0, after.stderr
    assert after.stdout == "agent ['--version']\n"


def test_without_a_network_the_set_up_says_so_and_leaves_no_stamp(
    machine_folder: Path, offline: dict[str, str], quick_python: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    unreachable = {name: value for name, value in offline.items() if name not in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}
    failed = start_agent(
        machine_folder, {**unreachable, "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple"}, python=quick_python
    )
    assert failed.returncode == 1
    assert "The package index could not be reached." in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not Environment(machine_folder).serves(frozenset())


def test_without_a_wheel_or_project_there_is_nothing_to_install(machine_folder: Path, offline: dict[str, str]) -> None:
    next(machine_folder.glob("*.whl")).unlink()
    failed = start_agent(machine_folder, offline)
    assert failed.returncode == 1
    assert "neither Shardboard's pyproject.toml nor its wheel" in failed.stderr


def test_no_new_enough_python_is_named_with_what_to_do(machine_folder: Path, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(shutil.which(name) or "")
    old = programs / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    failed = subprocess.run(
        ["bash", str(machine_folder / "agent.sh")],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert "Shardboard needs Python 3.11 or newer" in failed.stderr
    assert "SHARDBOARD_PYTHON=" in failed.stderr


@pytest.fixture
def made(tmp_path: Path) -> Environment:
    """An environment without packages, and a project beside it."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'shardboard'\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")], check=True)
    return Environment(tmp_path)


def stamp(environment: Environment, *extras: str) -> None:
    environment.wanted(frozenset(extras)).write(environment.folder / "shardboard.json")


def test_a_complete_environment_serves_until_the_project_changes(made: Environment) -> None:
    assert not made.serves(frozenset())
    stamp(made)
    assert made.serves(frozenset())
    (made.root / "pyproject.toml").write_text("[project]\nname = 'shardboard'\ndependencies = ['zstandard']\n")
    assert not made.serves(frozenset())


def test_an_environment_serves_fewer_extras_than_it_has_and_never_more(made: Environment) -> None:
    stamp(made, "controller", "dev")
    assert made.serves(frozenset({"controller"}))
    assert made.serves(frozenset())
    assert not made.serves(frozenset({"controller", "window"}))


def test_an_environment_whose_python_has_gone_does_not_serve(made: Environment) -> None:
    stamp(made)
    made.python.unlink()
    made.python.symlink_to(made.root / "gone")
    assert not made.serves(frozenset())


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"root": 1, "fingerprint"', "null"])
def test_a_damaged_stamp_is_no_stamp(tmp_path: Path, content: str) -> None:
    (tmp_path / "shardboard.json").write_text(content)
    assert Stamp.read(tmp_path / "shardboard.json") is None


def test_the_version_is_that_of_the_environments_own_python(made: Environment) -> None:
    assert python_version(made.folder) == ".".join(str(number) for number in sys.version_info[:3])
    assert python_version(made.root / "nowhere") == ""


def test_a_full_disk_is_found_out_before_anything_is_made(machine_folder: Path, offline: dict[str, str]) -> None:
    small = machine_folder.parent / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)]).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        folder = shutil.copytree(machine_folder, small / "here")
        failed = start_agent(folder, offline)
        assert failed.returncode == 1
        assert "The disk is too full" in failed.stderr
        assert not (folder / ".venv").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)
