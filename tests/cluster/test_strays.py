"""A controller that is killed while it starts an agent leaves no agent that nobody knows of."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from app.cluster.strays import NOTE, clear_abandoned, forget_start, note_start
from app.paths import Home

ROOT = Path(__file__).resolve().parent.parent.parent
KILLED_WHILE_IT_STARTS = """
import asyncio, sys
from pathlib import Path
from app.cluster.launching import AgentLauncher
from app.paths import Home
asyncio.run(AgentLauncher(Home(Path(sys.argv[1]), Path(sys.argv[1]) / "models").create(), "0" * 40).start(1))
"""


def agents_in(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if str(folder) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize("known", [False, True], ids=["a new one", "one that was being revived"])
def test_the_agent_of_a_controller_that_was_killed_while_it_started_it_is_ended(tmp_path: Path, known: bool) -> None:
    folder = tmp_path / "agents" / "1"
    controller = subprocess.Popen([sys.executable, "-c", KILLED_WHILE_IT_STARTS, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (folder.is_dir() and agents_in(folder)):
        assert time.monotonic() < deadline and controller.poll() is None
        time.sleep(0.02)
    controller.kill()
    controller.wait()
    if known:
        (folder / "launch.json").write_text("{}")
    (stray,) = agents_in(folder)
    assert stray.is_running()
    try:
        clear_abandoned(Home(tmp_path, tmp_path / "models").agents)
        assert agents_in(folder) == []
    finally:
        for process in agents_in(folder):
            process.kill()
    assert folder.exists() is known
    assert list(tmp_path.glob(f"agents/*/{NOTE}*")) == []


def test_what_a_living_controller_starts_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    note_start(folder)
    clear_abandoned(tmp_path)
    assert (folder / f"{NOTE}{os.getpid()}-").exists()
    forget_start(folder)
    assert list(folder.iterdir()) == []
