"""A QThread that does one job's work and tells the GUI thread how far it is and how it ended."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt, QThread, Signal, Slot

from app.children.work import JobChain, JobProgress
from app.errors import Cancelled, ShardboardError
from app.ui.bridge import explained
from app.ui.jobs.job import JobEnding
from app.ui.jobs.job_work import Work

if TYPE_CHECKING:
    from app.models.library import ModelLibrary

log = logging.getLogger(__name__)

REPORT_SECONDS = 0.1

_unending: list[JobThread] = []
"""Threads that did not end in time. Letting go of one would abort the process."""


class _Worker(QObject):
    """Lives in the job's thread."""

    progressed = Signal(object)
    """A JobProgress; at most one in `REPORT_SECONDS`, but each new phase at once."""
    ended = Signal()

    def __init__(self, work: Work, library: ModelLibrary, chain: JobChain) -> None:
        super().__init__()
        self.ending: JobEnding | None = None
        self._work, self._library, self._chain = work, library, chain
        self._told = 0.0
        self._phase = ""

    @Slot()
    def run(self) -> None:
        try:
            self.ending = JobEnding(self._work.run(self._library, self._report, self._chain))
        except ShardboardError as error:
            self.ending = JobEnding(error=error)
        except BaseException as error:  # a thread begins here: nobody else would hear of it
            self.ending = JobEnding(error=explained(error, self._work.title))
        self.ended.emit()
        QThread.currentThread().quit()

    def _report(self, progress: JobProgress) -> None:
        now = time.monotonic()
        if progress.phase != self._phase or now - self._told >= REPORT_SECONDS:
            self._told, self._phase = now, progress.phase
            self.progressed.emit(progress)


class JobThread(QObject):
    """One work in one thread, once. Lives in the GUI thread, and so do its signals' slots."""

    progressed = Signal(object)
    """A JobProgress."""
    ended = Signal(object)
    """The JobEnding; comes once, after the thread is gone."""

    def __init__(self, work: Work, library: ModelLibrary, parent: QObject) -> None:
        super().__init__(parent)
        self._chain = JobChain()
        self._thread: QThread | None = QThread()  # no parent: it may have to outlive this object, see `join`
        self._thread.setObjectName(f"job-{work.kind}")
        self._worker: _Worker | None = _Worker(work, library, self._chain)
        self._worker.moveToThread(self._thread)
        self._thread.started.connect(self._worker.run)
        self._worker.progressed.connect(self._on_progressed, Qt.ConnectionType.QueuedConnection)
        self._worker.ended.connect(self._on_ended, Qt.ConnectionType.QueuedConnection)

    def start(self) -> None:
        assert self._thread is not None
        self._thread.start(QThread.Priority.LowPriority)

    def cancel(self) -> None:
        """Ask the work to end; returns at once."""
        self._chain.cancel()

    @Slot(object)
    def _on_progressed(self, progress: JobProgress) -> None:
        if self._worker is not None:
            self.progressed.emit(progress)

    @Slot()
    def _on_ended(self) -> None:
        self.join(10.0)  # its work is done: this is a matter of microseconds

    def join(self, seconds: float) -> bool:
        """Wait for the thread; whether it ended. `ended` is emitted before this returns, at the first time."""
        thread, worker = self._thread, self._worker
        if thread is None or worker is None:
            return True
        thread.quit()
        if not thread.wait(max(0, int(seconds * 1000))):
            log.error("the thread of a job did not end within %.0f s", seconds)
            _unending.append(self)
            self.setParent(None)
            return False
        self._thread = self._worker = None
        ending = worker.ending or JobEnding(error=Cancelled("It was cancelled before it began."))
        # The worker goes with its last reference: it lives in a thread that would never delete it.
        thread.deleteLater()
        self.ended.emit(ending)
        return True
