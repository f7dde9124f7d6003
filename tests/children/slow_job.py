"""A child process whose work is to write a file, slowly, so that it can be broken off at any point."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from msgspec import Struct

from app.children.work import JobProgress, ProgressCallback, past_return, serve_job


class SlowRequest(Struct, frozen=True):
    file: str
    """Grows while the work goes on."""
    commits: bool = False
    """Whether the work cannot be undone any more when it reports."""
    seconds: float = 60.0


class SlowOutcome(Struct, frozen=True):
    optimize: int
    """What `sys.flags` says."""
    parent_streams: bool
    """Whether the standard streams are there."""
    folder: str


def work(request: SlowRequest, report: ProgressCallback) -> SlowOutcome:
    path = Path(request.file)
    path.write_text("half")
    if request.commits:
        past_return()
    report(JobProgress("writing", 1, 2))
    end = time.monotonic() + request.seconds
    while time.monotonic() < end:
        time.sleep(0.05)
    path.write_text("whole")
    return SlowOutcome(sys.flags.optimize, None not in (sys.stdin, sys.stdout, sys.stderr), str(Path.cwd()))


def undo(request: SlowRequest) -> None:
    Path(request.file).unlink(missing_ok=True)


if __name__ == "__main__":
    serve_job(SlowRequest, work, undo)
