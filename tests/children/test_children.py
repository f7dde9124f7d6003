"""Children that work for us: whatever they inherit, they end when they are asked to, and leave nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from app.children.starting import ROOT, child_environment, is_abandoned, start_child
from app.children.work import ChildJob, JobProgress
from app.errors import Cancelled, ShardboardError
from tests.children.slow_job import SlowOutcome, SlowRequest
from tests.inheriting import inheriting
from tests.waiting import wait_until

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows neither ignored nor blocked signals")


def slow_job(
    file: Path, during: Callable[[ChildJob[SlowOutcome]], None], *, commits: bool = False, seconds: float = 60.0
) -> ChildJob[SlowOutcome]:
    """A job that has written half of its file when `during` is called."""

    def on_progress(progress: JobProgress) -> None:
        assert file.exists()
        during(job)

    request = SlowRequest(str(file), commits, seconds)
    job = ChildJob("tests.children.slow_job", request, SlowOutcome, what="writing slowly", on_progress=on_progress)
    return job


@contextmanager
def handled(ignored: bool, blocked: bool) -> Iterator[None]:
    """This process with SIGINT ignored and SIGTERM blocked, as its children inherit them."""
    before = signal.getsignal(signal.SIGINT)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM] if blocked else [])
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.mark.signals
@posix
@pytest.mark.parametrize(("ignored", "blocked"), [(False, False), (True, False), (False, True)])
def test_a_child_that_is_cancelled_undoes_its_work_whatever_signals_it_inherits(
    tmp_path: Path, ignored: bool, blocked: bool
) -> None:
    job = slow_job(tmp_path / "file", lambda job: job.cancel())
    with handled(ignored, blocked), pytest.raises(Cancelled):
        began = time.monotonic()
        job.run()
    assert not (tmp_path / "file").exists(), "it was killed before it could undo, or did not hear"
    assert time.monotonic() - began < 60


@posix
def test_a_child_that_is_terminated_undoes_its_work_and_says_what_ended_it(tmp_path: Path) -> None:
    job = slow_job(tmp_path / "file", lambda job: psutil.Process(job.pid).terminate())
    with pytest.raises(ShardboardError, match="ended by signal 15"):
        job.run()
    assert not (tmp_path / "file").exists()


@pytest.mark.signals
def test_who_cancels_when_the_work_cannot_be_undone_gets_its_result(tmp_path: Path) -> None:
    job = slow_job(tmp_path / "file", lambda job: job.cancel(), commits=True, seconds=0.5)
    assert isinstance(job.run(), SlowOutcome)
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.signals
@posix
def test_a_child_whose_parent_was_killed_undoes_its_work_and_leaves(tmp_path: Path) -> None:
    file = tmp_path / "file"
    code = (
        "import sys\n"
        "from app.children.work import ChildJob\n"
        "from tests.children.slow_job import SlowOutcome, SlowRequest\n"
        "job = ChildJob('tests.children.slow_job', SlowRequest(sys.argv[1]), SlowOutcome, what='writing',"
        " on_progress=lambda progress: print(job.pid, flush=True))\n"
        "job.run()\n"
    )
    parent = subprocess.Popen(
        inheriting(sys.executable, "-c", code, str(file), ignored=("SIGINT",), blocked=("SIGINT",)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert file.exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not file.exists(), 20)
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE, 20)


@posix
def test_what_python_and_the_user_say_to_other_programs_does_not_reach_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('the app of another project')\n")
    (tmp_path / "signal.py").write_text("raise SystemExit('a script of the user')\n")
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "PYTHONOPTIMIZE": "2", "PYTHONINSPECT": "1", "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error",
        "PYTHONSTARTUP": str(tmp_path / "signal.py"), "PYTHONVERBOSE": "1", "LC_ALL": "nonsense",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    file = tmp_path / "ä file"
    outcome = slow_job(file, lambda job: None, seconds=0).run()
    assert outcome == SlowOutcome(0, True, str(ROOT))
    assert file.read_text() == "whole"


@posix
def test_a_child_starts_although_the_working_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gone = Path(tempfile.mkdtemp())
    os.chdir(gone)
    gone.rmdir()
    assert slow_job(tmp_path / "file", lambda job: None, seconds=0).run().folder == str(ROOT)


def test_a_child_finds_our_code_before_what_the_users_path_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/somewhere", str(ROOT), ""]))
    assert child_environment()["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/somewhere"]


def test_a_number_that_another_process_was_given_does_not_keep_what_was_left(tmp_path: Path) -> None:
    ours = tmp_path / f"doing-{os.getpid()}-x"
    ours.mkdir()
    assert not is_abandoned(ours, "doing-")
    before = psutil.Process().create_time() - 100
    os.utime(ours, (before, before))  # written to before this process began
    assert is_abandoned(ours, "doing-")
    ended = start_child("this", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended.wait()
    assert is_abandoned(tmp_path / f"doing-{ended.pid}-x", "doing-")
    assert not is_abandoned(tmp_path / "doing-something", "doing-")
