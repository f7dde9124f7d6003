"""Two set-ups at once: the second waits, and a dead one holds nobody up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap.lock import exclusive

ROOT = Path(__file__).resolve().parent.parent.parent
HOLD = """
import sys
from pathlib import Path
from bootstrap.lock import exclusive
with exclusive(Path(sys.argv[1]), "waiting"):
    print("held", flush=True)
    sys.stdin.read()
    Path(sys.argv[2]).write_text("first")
"""


def test_the_second_waits_for_the_first_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock, trace = tmp_path / "lock", tmp_path / "trace"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock), str(trace)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as first:
        assert first.stdin is not None and first.stdout is not None
        assert first.stdout.readline().strip() == b"held"
        second = subprocess.Popen(
            [sys.executable, "-c", HOLD.replace("first", "second"), str(lock), str(trace)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr is not None
        assert second.stderr.readline().strip() == "waiting"
        assert not trace.exists()
        first.stdin.close()
        first.wait(10)
    second.communicate(timeout=10)
    assert trace.read_text() == "second"


def test_a_killed_holder_lets_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock), str(tmp_path / "trace")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        holder.kill()
        holder.wait(10)
    with exclusive(lock, "waiting"):
        assert capsys.readouterr().err == ""
