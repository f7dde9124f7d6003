"""Writes jobs and their phases down in the registry, so that they can be looked up after the window was closed."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Slot

from app.errors import ShardboardError
from app.registry.records import JobStatus
from app.runs.phases import PhaseRecorder
from app.runs.trace import JobTrace, Phase, pack
from app.ui.bridge import Bridge, window_origin
from app.ui.jobs.job import JobState
from app.ui.jobs.thread_job import ThreadJob

if TYPE_CHECKING:
    from app.registry import Registry

log = logging.getLogger(__name__)


class JobRecords(QObject):
    """Keeps one record for each job. A write that fails is logged: the job itself must not fail by it."""

    def __init__(self, bridge: Bridge, parent: QObject) -> None:
        super().__init__(parent)
        self._bridge = bridge
        self._pens: list[_Pen] = []

    def follow(self, job: ThreadJob) -> None:
        """Write a job that was just queued down, and all that becomes of it."""
        self._pens = [pen for pen in self._pens if not pen.is_idle.is_set()]
        pen = _Pen(job.view.kind, job.view.title)
        self._pens.append(pen)
        _Keeper(job, self._bridge, pen)

    def flush(self, seconds: float) -> None:
        """Wait until all is written, `seconds` at most: the bridge throws away what it has not begun when it closes."""
        deadline = time.monotonic() + seconds
        for pen in self._pens if self._bridge.is_open else ():
            pen.is_idle.wait(max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True)
class _Line:
    """What a record says."""

    status: JobStatus
    error: str | None
    model: str | None
    details: tuple[tuple[str, object], ...]
    phases: tuple[Phase, ...] = ()
    """Of a job that is over."""
    took_us: int = 0


class _Pen:
    """Writes one job's record, in threads of the bridge's. Knows no Qt, so it may outlive the job."""

    def __init__(self, kind: str, title: str) -> None:
        self.is_idle = threading.Event()
        """Nothing waits to be written."""
        self.is_idle.set()
        self._kind, self._title = kind, title
        self._record: int | None = None
        self._waiting: deque[_Line] = deque()
        self._lock = threading.Lock()

    def take(self, line: _Line) -> None:
        """In the GUI thread: have this written by the next `write`."""
        self.is_idle.clear()
        self._waiting.append(line)

    def write(self, registry: Registry) -> None:
        """Write what waits, in order; each line once, whichever call of this comes first."""
        with self._lock:
            try:
                while self._waiting:
                    self._put(registry, self._waiting.popleft())
            finally:
                self.is_idle.set()

    def _put(self, registry: Registry, line: _Line) -> None:
        if self._record is None:
            self._record = registry.jobs.add(kind=self._kind, title=self._title, model_name=line.model).id
        if line.status.is_over:
            registry.traces.put("job", str(self._record), _trace(line))
        if line.status is not JobStatus.QUEUED:
            registry.jobs.update(
                self._record, status=line.status, error=line.error, model_name=line.model, details=dict(line.details)
            )


class _Keeper(QObject):
    """Hands a pen each line that says something new."""

    def __init__(self, job: ThreadJob, bridge: Bridge, pen: _Pen) -> None:
        super().__init__(job)
        self._job, self._bridge, self._pen = job, bridge, pen
        self._last: _Line | None = None
        self._phases = PhaseRecorder()
        job.changed.connect(self._write)
        self._write()

    @Slot()
    def _write(self) -> None:
        view, line = self._job.view, _line(self._job)
        if view.phase:
            self._phases.note(view.phase, total_bytes=view.total_bytes)
        if line.status.is_over and (self._last is None or not self._last.status.is_over):
            line = replace(line, phases=self._phases.end(), took_us=self._phases.now_us)
        elif line.status.is_over:
            return
        if line != self._last:
            self._last = line
            self._pen.take(line)
            self._bridge.read(self._pen.write, "writing the job down").failed.connect(self._on_failed)

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        log.warning("the job '%s' could not be written down: %s", self._job.view.title, error)


def _line(job: ThreadJob) -> _Line:
    view = job.view
    details = job.result.details if job.result is not None and view.state is JobState.DONE else ()
    if view.started_at is not None and view.ended_at is not None:
        details = (*details, ("seconds", round((view.ended_at - view.started_at).total_seconds(), 3)))
    return _Line(JobStatus(view.state.value), str(view.error) if view.error else None, view.model or None, details)


def _trace(line: _Line) -> bytes:
    """In a thread: what the registry keeps of how a job went."""
    from app.inference.facts import versions  # loaded with the controller

    return pack(
        JobTrace(
            origin=window_origin(), versions=versions(), phases=line.phases, took_us=line.took_us, error=line.error
        )
    )
