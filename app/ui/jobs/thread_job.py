"""A job whose work runs in a thread of its own and supervises child processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Slot

from app.errors import Cancelled, ShardboardError
from app.ui.bridge import Bridge, Call
from app.ui.jobs.job import Job, JobEnding, JobResult, JobState, JobView
from app.ui.jobs.job_work import Work

if TYPE_CHECKING:
    from app.children.work import JobProgress
    from app.controller import Controller
    from app.models.library import ModelLibrary
    from app.ui.jobs.job_thread import JobThread

REGISTER_SECONDS = 2.0

Again = Callable[[Work], Job]


class ThreadJob(Job):
    """Queued until `start`; then: ask the controller for its library, do the work in a thread, register the result."""

    def __init__(self, id: int, work: Work, bridge: Bridge, again: Again, parent: QObject) -> None:
        super().__init__(JobView(id, work.kind, work.title, model=work.model), parent)
        self.work = work
        self.result: JobResult | None = None
        self._bridge = bridge
        self._again = again
        self._call: Call | None = None
        self._thread: JobThread | None = None
        self._begun = False
        self._registered: threading.Event | None = None

    def start(self) -> None:
        """Its turn has come."""
        self._begun = True
        self.begin("starting")
        self._call = self._bridge.call(_library, self.view.title)
        self._call.done.connect(self._on_library)
        self._call.failed.connect(self._on_failed)
        self._call.cancelled.connect(self._on_cancelled)

    def cancel(self) -> None:
        if self.is_over:
            return
        if not self._begun:
            self.finish(JobState.CANCELLED)
            return
        self.change(is_ending=True)
        if self._thread is not None:
            self._thread.cancel()
        elif self._call is not None:
            self._call.cancel()

    def retry(self) -> Job | None:
        return self._again(self.work) if self.view.can_retry else None

    def join(self, seconds: float) -> bool:
        """Wait for its thread after `cancel`; whether it ended. It is over then."""
        if self._thread is not None and not self._thread.join(seconds):
            return False
        if self._registered is not None and self.result is not None and self._bridge.is_open:
            # It was done before the cancelling reached it. What it registers is written on the controller's thread.
            self._registered.wait(REGISTER_SECONDS)
            self.finish(JobState.DONE, result=self.result)
        elif not self.is_over:  # it waited for the controller, which may never answer now
            self.finish(JobState.CANCELLED)
        return True

    @Slot(object)
    def _on_library(self, library: ModelLibrary) -> None:
        from app.ui.jobs.job_thread import JobThread

        self._call = None
        if self.is_over:
            return
        if self.view.is_ending:
            self.finish(JobState.CANCELLED)
            return
        self._thread = JobThread(self.work, library, self)
        self._thread.progressed.connect(self._on_progressed)
        self._thread.ended.connect(self._on_worked)
        self._thread.start()

    @Slot(object)
    def _on_progressed(self, progress: JobProgress) -> None:
        if not self.view.is_ending:
            self.show_progress(progress)

    @Slot(object)
    def _on_worked(self, ending: JobEnding) -> None:
        if self._thread is not None:
            self._thread.deleteLater()
            self._thread = None
        if ending.error is not None:
            self._on_failed(ending.error)
            return
        assert ending.result is not None
        result = self.result = ending.result
        if not self.work.registers:
            self._on_registered(result)
            return
        self.change(phase="registering", seconds_left=None)
        registered = self._registered = threading.Event()
        work = self.work

        async def register(controller: Controller, report: object) -> JobResult:
            try:
                return await work.register(controller, result)
            finally:
                registered.set()

        # Not cancellable any more: the files are there, and the registry must know of them too.
        call = self._bridge.call(register, f"registering {result.model}")
        call.done.connect(self._on_registered)
        call.failed.connect(self._on_failed)
        call.cancelled.connect(self._on_cancelled)

    @Slot(object)
    def _on_registered(self, result: JobResult) -> None:
        self.result = result
        self.finish(JobState.DONE, result=result)

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        if isinstance(error, Cancelled):
            self._on_cancelled()
        else:
            self.finish(JobState.FAILED, error=error)

    @Slot()
    def _on_cancelled(self) -> None:
        self.finish(JobState.CANCELLED)

    def finish(self, state: JobState, *, error: ShardboardError | None = None, result: JobResult | None = None) -> None:
        if not self.is_over:
            self.view = replace(self.view, can_retry=state is not JobState.DONE)
        super().finish(state, error=error, result=result)


async def _library(controller: Controller, report: object) -> ModelLibrary:
    return controller.library
