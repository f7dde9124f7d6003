"""A job that somebody else began on the controller's loop, a deployment for instance, and that the dock shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QTimer, Slot

from app.errors import ShardboardError
from app.ui.bridge import Call
from app.ui.jobs.job import Job, JobResult, JobState, JobView

if TYPE_CHECKING:
    from app.children.work import JobProgress

SHOW_MILLISECONDS = 100

Reader = Callable[[Any], "JobProgress | None"]
"""Makes progress of what a call reported; None for what says nothing of it."""
Retry = Callable[[], object]
Describe = Callable[[Any], str]


class FollowedJob(Job):
    """Runs from the start. Shows the last progress at most ten times a second."""

    def __init__(
        self, id: int, kind: str, title: str, call: Call, read: Reader, *,
        retry: Retry | None, describe: Describe | None, model: str, parent: QObject,
    ) -> None:  # fmt: skip
        super().__init__(JobView(id, kind, title, model=model), parent)
        self._call: Call | None = call
        self._read, self._retry, self._describe = read, retry, describe
        self._waiting: JobProgress | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SHOW_MILLISECONDS)
        self._timer.timeout.connect(self._show)
        self.begin("starting")
        call.progressed.connect(self._on_progressed)
        call.done.connect(self._on_done)
        call.failed.connect(self._on_failed)
        call.cancelled.connect(self._on_cancelled)

    def cancel(self) -> None:
        if self._call is not None and not self.is_over:
            self.change(is_ending=True)
            self._call.cancel()

    def retry(self) -> Job | None:
        """Has its maker begin again; the new job is the maker's to follow."""
        if self.view.can_retry and self._retry is not None:
            made = self._retry()
            return made if isinstance(made, Job) else None
        return None

    def abandon(self) -> None:
        """The window goes: the bridge ends the call, and nobody waits for it here."""
        self.finish(JobState.CANCELLED)

    @Slot(object)
    def _on_progressed(self, items: tuple[Any, ...]) -> None:
        for item in items:
            progress = self._read(item)
            if progress is not None:
                self._waiting = progress
        if self._waiting is not None and not self._timer.isActive():
            self._show()
            self._timer.start()

    @Slot()
    def _show(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self.show_progress(waiting)

    @Slot(object)
    def _on_done(self, result: object) -> None:
        text = self._describe(result) if self._describe is not None else ""
        self.finish(JobState.DONE, result=JobResult(text, self.view.model))

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self.finish(JobState.FAILED, error=error)

    @Slot()
    def _on_cancelled(self) -> None:
        self.finish(JobState.CANCELLED)

    def finish(self, state: JobState, *, error: ShardboardError | None = None, result: JobResult | None = None) -> None:
        self._call = None  # the bridge deletes it
        self._timer.stop()
        if not self.is_over:
            self.view = replace(self.view, can_retry=state is not JobState.DONE and self._retry is not None)
        super().finish(state, error=error, result=result)
