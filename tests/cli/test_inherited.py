"""Commands under a careless parent: they do their work, hear Ctrl-C and SIGTERM, and leave nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.programs import ROOT, runs
from tests.inheriting import inheriting
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX conditions")

MAIN = str(ROOT / "main.py")


def variables(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "MODEL_CACHE_DIR"}
    return {**kept, "SHARDBOARD_HOME": str(home), "COLUMNS": "100"}


def test_a_command_works_in_a_folder_that_is_gone_with_streams_closed_and_few_files(tmp_path: Path) -> None:
    command = inheriting(
        sys.executable, MAIN, "node", "list", "--json",
        folder_gone=True, closed=(0, 2), files=(64, 4096), umask=0o777, variables={"LC_ALL": "nonsense"},
    )  # fmt: skip
    done = subprocess.run(command, env=variables(tmp_path), stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (0, b"[]\n")
    assert (tmp_path / "logs").stat().st_mode & 0o700 == 0o700


def test_a_relative_path_in_a_folder_that_is_gone_is_named(folder: Path, tmp_path: Path) -> None:
    command = inheriting(
        sys.executable, MAIN, "shard_model", "--model_name", str(folder), "--num_shards", "2", "--output_dir", "out",
        folder_gone=True,
    )  # fmt: skip
    done = subprocess.run(command, env=variables(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has been removed" in done.stderr and "Go to another folder" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_the_output_is_told_in_a_sentence(tmp_path: Path, unbuffered: str) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no device that is always full")
    with full.open("w") as out:
        done = subprocess.run(
            [sys.executable, MAIN, "node", "list", "--json"],
            env={**variables(tmp_path), "PYTHONUNBUFFERED": unbuffered}, stdout=out, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "The disk is full" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_told_to_end_ends_its_child_and_leaves_nothing(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = inheriting(
        sys.executable, MAIN, "shard_model", "--model_name", str(folder), "--num_shards", "2", "--output_dir", str(out),
        ignored=("SIGINT", "SIGTERM"), blocked=("SIGINT", "SIGTERM"),
    )  # fmt: skip
    process = subprocess.Popen(command, env=variables(tmp_path / "home"), stderr=subprocess.PIPE, text=True)
    children: list[psutil.Process] = []

    def has_child() -> bool:
        assert process.poll() is None
        children[:] = psutil.Process(process.pid).children()
        return bool(children)

    wait_until(has_child)
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert time.monotonic() - began < 15
    assert not any(runs(child.pid) for child in children)
    assert not out.exists()
