"""Jobs as the window shows them: those of the controller's desk, and calls that it follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from app.children.work import JobProgress
from app.errors import ShardboardError
from app.jobs.job import JobView, Work
from app.registry.records import JobStatus
from app.ui.bridge import Bridge, Call

SHOW_MILLISECONDS = 100

Reader = Callable[[Any], JobProgress | None]
"""Makes progress of what a call reported; None for what says nothing of it."""
Retry = Callable[[], object]
Describe = Callable[[Any], str]


class Job(QObject):
    """One piece of long work. Lives in the GUI thread; made by `JobQueue` only. Its subclasses say what it does."""

    changed = Signal()
    """`view` is another now; at most ten times a second."""
    ended = Signal(object)
    """The last JobView. Comes once."""

    def __init__(self, view: JobView, parent: QObject) -> None:
        super().__init__(parent)
        self.view = view
        self.is_own = True
        """This window asked for it."""

    @property
    def is_over(self) -> bool:
        return self.view.status.is_over

    def cancel(self) -> None:
        """Ask it to end; `ended` comes when it has cleaned up behind itself."""
        raise NotImplementedError

    def retry(self) -> Job | None:
        """Do it once more as a new job, which goes on where this one was if that can be; None when it cannot."""
        raise NotImplementedError

    def show_view(self, view: JobView) -> None:
        """It is like this now. Nothing changes any more once it is over."""
        if not self.is_over:
            self.view = view
            self.changed.emit()
            if view.status.is_over:
                self.ended.emit(view)

    def change(self, **fields: Any) -> None:
        """Show it with some fields of its JobView changed."""
        self.show_view(replace(self.view, **fields))

    def begin(self, phase: str) -> None:
        self.change(status=JobStatus.RUNNING, phase=phase, started_at=datetime.now(UTC))

    def finish(self, status: JobStatus, *, error: ShardboardError | None = None, result: str | None = None) -> None:
        """It is over."""
        said = self.view.result if result is None else result
        self.change(
            status=status, error=error, result=said, phase="", ended_at=datetime.now(UTC), seconds_left=None,
            bytes_per_second=0.0, is_ending=False,
        )  # fmt: skip


class DeskJob(Job):
    """A job of the controller's desk, whoever asked for it: this window, a program over HTTP, a command."""

    def __init__(
        self, work: Work[Any], own: bool, bridge: Bridge, again: Callable[[Work[Any]], Job], parent: QObject
    ) -> None:
        super().__init__(JobView(0, work.kind, work.title, model=work.model, work=work), parent)
        self.work, self.is_own = work, own
        self._bridge, self._again = bridge, again
        self._cancelled = False

    def cancel(self) -> None:
        if self.is_over or self._cancelled:
            return
        self._cancelled = True
        self.change(is_ending=True)
        if self.view.id:  # else once it has its number
            self._cancel()

    def retry(self) -> Job | None:
        return self._again(self.work) if self.view.can_retry else None

    def show_view(self, view: JobView) -> None:
        """It is like this on the desk."""
        is_new = bool(view.id) and not self.view.id
        super().show_view(replace(view, is_ending=(self._cancelled and not view.status.is_over) or view.is_ending))
        if is_new and self._cancelled and not self.is_over:
            self._cancel()

    def _cancel(self) -> None:
        id = self.view.id
        if self._bridge.is_open:  # else the controller is closing, and ends it anyway
            self._bridge.call(lambda controller, report: controller.cancel_job(id), f"cancelling job {id}")


class FollowedJob(Job):
    """A call that somebody else has begun on the controller's loop, a deployment for instance.

    Shows the last progress at most ten times a second.
    """

    def __init__(
        self, kind: str, title: str, call: Call, read: Reader, *,
        retry: Retry | None, describe: Describe | None, model: str, parent: QObject,
    ) -> None:  # fmt: skip
        super().__init__(JobView(0, kind, title, model=model), parent)
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
        if self._call is not None and not self.is_over and not self.view.is_ending:
            self.change(is_ending=True)
            self._call.cancel()

    def retry(self) -> Job | None:
        """Has its maker begin again; the new job is the maker's to follow."""
        if self.view.can_retry and self._retry is not None:
            made = self._retry()
            return made if isinstance(made, Job) else None
        return None

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
        now, self._waiting = self._waiting, None
        if now is not None:
            self.change(
                phase=now.phase, done_bytes=now.done_bytes, total_bytes=now.total_bytes,
                bytes_per_second=now.bytes_per_second, seconds_left=now.seconds_left,
            )  # fmt: skip

    @Slot(object)
    def _on_done(self, result: object) -> None:
        self.finish(JobStatus.DONE, result=self._describe(result) if self._describe is not None else "")

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self.finish(JobStatus.FAILED, error=error)

    @Slot()
    def _on_cancelled(self) -> None:
        self.finish(JobStatus.CANCELLED)

    def finish(self, status: JobStatus, *, error: ShardboardError | None = None, result: str | None = None) -> None:
        self._call = None  # the bridge deletes it
        self._timer.stop()
        if not self.is_over:
            self.view = replace(self.view, can_retry=status is not JobStatus.DONE and self._retry is not None)
        super().finish(status, error=error, result=result)
