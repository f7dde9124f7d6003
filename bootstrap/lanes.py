"""Runs several programs side by side, and shows what each has said when it has ended, as if they had run in turn."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRESS_SECONDS = 20.0
"""How often it is said how far the programs are."""
LEAVE_SECONDS = 30.0
"""How long a program may take to clean up behind itself when the run is broken off."""
SILENT_SECONDS = 480.0
"""A program that says nothing for so long hangs: no test takes half of it, nor does a check."""
HUNG = -1001
"""The status of one that was ended for that reason; no signal has this number."""
BESIDE = -1
"""The lane of a program that waits more than it computes."""
_POLL_SECONDS = 0.1
_PERCENT = re.compile(r"\[ *(\d+)%\]$", re.MULTILINE)


@dataclass(frozen=True)
class Task:
    """One program of a run."""

    name: str
    command: tuple[str, ...]
    tests: bool = False
    """Whether it is pytest, which prints in percent how far it is and closes with a count."""
    waits: bool = False
    """Whether it waits more than it computes: it then runs beside the others, on whatever cores they leave."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    task: Task
    status: int
    """Its exit status; negative for a signal, or `HUNG`."""
    output: str
    seconds: float


class _Running:
    """A program under way. What it says goes to a file: a pipe would stay open for as long as any child of it lives."""

    def __init__(
        self, task: Task, folder: Path, output: Path, lane: int, cores: set[int], environment: Mapping[str, str] | None
    ) -> None:
        self.task, self.lane = task, lane
        self._output = output
        self._began = self._heard = time.monotonic()
        self._length = 0
        self._is_hung, self._silent = False, 0.0
        if lane == BESIDE:
            environment = {**(os.environ if environment is None else environment), "OMP_NUM_THREADS": "1"}
        with output.open("wb") as written:
            self._process = subprocess.Popen(
                task.command, cwd=folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT,
            )  # fmt: skip
        if sys.platform == "linux":
            with suppress(OSError):  # it may have ended already
                os.sched_setaffinity(self._process.pid, cores)

    def outcome(self) -> Outcome | None:
        """None while it runs."""
        status = self._process.poll()
        if status is None:
            return None
        said, seconds = self._said(), time.monotonic() - self._began
        if not self._is_hung:
            return Outcome(self.task, status, said, seconds)
        return Outcome(self.task, HUNG, f"{said}\nIt said nothing for {self._silent:.0f} s, and was ended.", seconds)

    def end_if_silent(self, seconds: float) -> None:
        """Break it off when it has said nothing for so long: as Ctrl-C first, so that it can clean up."""
        length, now = self._output.stat().st_size, time.monotonic()
        if length != self._length:
            self._length, self._heard = length, now
        elif now - self._heard > seconds and not self._is_hung:
            self._is_hung, self._silent = True, now - self._heard
            self.interrupt()
            self.leave(LEAVE_SECONDS)

    def progress(self) -> str:
        percent = _PERCENT.findall(self._said()) if self.task.tests else []
        return f"{self.task.name} {percent[-1]} %" if percent else self.task.name

    def interrupt(self) -> None:
        """As Ctrl-C in its terminal would."""
        with suppress(OSError):
            self._process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)

    def leave(self, seconds: float) -> None:
        """Wait for its end, and kill it when it does not come in time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _said(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")


def run_side_by_side(
    tasks: Sequence[Task],
    *,
    folder: Path,
    width: int,
    show: Callable[[str], None],
    silent_seconds: float = SILENT_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Run all tasks in `folder`, `width` at a time, begun in their order: the longest should stand first. One of those
    that wait more than they compute runs beside them.

    Each has cores of its own, where the system lets them be given out and there are enough: threads that compute
    together wait for each other, and where others take their cores in turn they wait for most of the time. The one
    beside them has none of its own, and is told to compute with one thread.
    One that says nothing for `silent_seconds` is ended, and the run goes on. `environment` is theirs in place of ours.

    `show` takes lines for the user: what a task said when it has ended, and now and then how far the others are.
    An interrupt is passed on to those that run, and raised when they have left.
    """
    waiting = deque(tasks)
    running: list[_Running] = []
    outcomes: list[Outcome] = []
    began = shown = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shardboard-checks-") as outputs, _leaving(running):
        while waiting or running:
            while (task := _next(waiting, running, width)) is not None:
                lane = BESIDE if task.waits else min(set(range(width)) - {each.lane for each in running})
                output = Path(outputs, str(len(waiting)))
                waiting.remove(task)
                running.append(_Running(task, folder, output, lane, _cores(lane, width), environment))
            for each in list(running):
                each.end_if_silent(silent_seconds)
                if (outcome := each.outcome()) is not None:
                    running.remove(each)
                    outcomes.append(outcome)
                    show(f"== {outcome.task.name} ({clock(outcome.seconds)})\n{outcome.output.rstrip()}")
            if time.monotonic() - shown >= PROGRESS_SECONDS and running:
                shown = time.monotonic()
                more = f"; {len(waiting)} to come" if waiting else ""
                show(f".. {clock(shown - began)} {', '.join(each.progress() for each in running)}{more}")
            time.sleep(_POLL_SECONDS)
    return outcomes


def _next(waiting: Iterable[Task], running: Sequence[_Running], width: int) -> Task | None:
    """The next program for which there is a place: a lane, or the one beside them all for those that wait."""
    taken = sum(each.lane != BESIDE for each in running)
    return next((task for task in waiting if (taken == len(running) if task.waits else taken < width)), None)


@contextmanager
def _leaving(running: list[_Running]) -> Iterator[None]:
    """On the way out, whatever the reason, those that still run are ended."""
    try:
        yield
    finally:
        for each in running:
            each.interrupt()
        ends = time.monotonic() + LEAVE_SECONDS
        for each in running:
            each.leave(max(0.0, ends - time.monotonic()))


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _cores(lane: int, width: int) -> set[int]:
    """Those of one of several lanes; all, where there are fewer cores than lanes. Linux alone tells them apart."""
    if sys.platform != "linux":
        return set()
    cores = sorted(os.sched_getaffinity(0))
    if lane == BESIDE:
        return set(cores)
    return set(cores[lane::width] if len(cores) >= width else cores)
