"""A process of ours under a careless parent: what it inherits is set right before anything else is done."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.inheriting import inheriting
from tests.worker_agent.agent_process import ROOT, log_of, until
from worker_agent.process import OPEN_FILES

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX conditions")

TELLS = """
import json, os, signal, sys
from worker_agent.process import settle
settle()
print("shown on a stream that may be closed: ä ⏎")
print("the same", file=sys.stderr)
opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
mask = os.umask(0)
import resource
facts = {
    "number": opened,
    "stdin": sys.stdin.read(),
    "mask": mask,
    "heard": [signal.getsignal(getattr(signal, name)) != signal.SIG_IGN for name in ("SIGINT", "SIGTERM", "SIGCHLD")],
    "hangup_ignored": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
}
os.write(opened, json.dumps(facts).encode())
"""


def told(tmp_path: Path, **conditions: Any) -> Any:
    """What such a process finds after it has settled."""
    file = tmp_path / "facts.json"
    command = inheriting(sys.executable, "-c", TELLS, str(file), **conditions)
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_bytes())


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path, closed: tuple[int, ...]) -> None:
    facts = told(tmp_path, closed=closed)
    assert facts["number"] > 2
    assert facts["stdin"] == ""


def test_what_a_streams_encoding_lacks_does_not_end_the_program(tmp_path: Path) -> None:
    assert told(tmp_path, variables={"PYTHONIOENCODING": "ascii"})["number"] > 2


def test_signals_that_are_meant_for_it_are_heard_and_nohup_is_honoured(tmp_path: Path) -> None:
    facts = told(tmp_path, ignored=("SIGINT", "SIGTERM", "SIGCHLD", "SIGHUP"), blocked=("SIGINT", "SIGTERM", "SIGCHLD"))
    assert facts["heard"] == [True, True, True]
    assert facts["hangup_ignored"]
    assert facts["blocked"] == []


@pytest.mark.parametrize(("inherited", "own"), [(0, 0o002), (0o022, 0o022), (0o027, 0o027), (0o777, 0o077)])
def test_a_umask_keeps_its_owner_in_and_the_world_from_writing(tmp_path: Path, inherited: int, own: int) -> None:
    assert told(tmp_path, umask=inherited)["mask"] == own


def test_the_limit_of_open_files_is_raised_as_far_as_is_allowed(tmp_path: Path) -> None:
    assert told(tmp_path, files=(64, OPEN_FILES + 1))["files"] == [OPEN_FILES, OPEN_FILES + 1]
    assert told(tmp_path, files=(64, 128))["files"] == [128, 128]


def test_an_agents_secrets_are_its_own_under_any_umask(tmp_path: Path) -> None:
    for umask in (0, 0o777):
        home = tmp_path / f"{umask:o}"
        command = inheriting(
            sys.executable, "-m", "worker_agent", "--home", str(home), "--print-key", umask=umask, folder_gone=True,
            variables={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert len(subprocess.run(command, capture_output=True, text=True, check=True).stdout) == 41
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "agent.key").stat().st_mode) == 0o600
        for folder in (home / "parts", home / "controllers"):
            assert folder.stat().st_mode & stat.S_IRWXU == stat.S_IRWXU


def test_a_relative_place_in_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    command = inheriting(
        sys.executable, "-m", "worker_agent", "--home", "here", folder_gone=True, variables={"PYTHONPATH": str(ROOT)}
    )
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--home: here leads nowhere" in refused.stderr and "Give a whole path" in refused.stderr


def test_an_agent_under_a_careless_parent_serves_and_ends_when_it_is_told(tmp_path: Path) -> None:
    home, ready = tmp_path / "home", tmp_path / "ready"
    command = inheriting(
        sys.executable, "-m", "worker_agent", "--listen", "127.0.0.1:0", "--home", str(home), "--threads", "1",
        "--ready-file", str(ready),
        ignored=("SIGINT", "SIGTERM", "SIGCHLD"), blocked=("SIGINT", "SIGTERM", "SIGCHLD"), closed=(0, 1, 2),
        umask=0o777, files=(64, 4096), folder_gone=True,
        variables={"PYTHONPATH": str(ROOT), "LC_ALL": "nonsense", "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    agent = subprocess.Popen(command)
    try:
        until(lambda: ready.exists() or agent.poll() is not None, 60)
        assert agent.poll() is None, log_of(home)
        agent.send_signal(signal.SIGINT)
        assert agent.wait(20) == 0
        assert "the agent ends with status 0" in log_of(home)
    finally:
        agent.kill()
        agent.wait()
