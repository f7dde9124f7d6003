"""A job of the controller's desk as the window shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from PySide6.QtCore import QObject, Signal

from app.errors import ShardboardError
from app.jobs.job import JobSnapshot, Work
from app.registry.records import JobStatus
from app.ui.bridge import Bridge


class ShownJob(QObject):
    """One piece of long work, whoever asked for it: this window, a program over HTTP, a command.

    Lives in the GUI thread; made by `JobQueue` only.
    """

    changed = Signal()
    """`view` is another now; about ten times a second at most."""
    ended = Signal(object)
    """The last JobSnapshot. Comes once."""

    def __init__(
        self, work: Work[Any], own: bool, bridge: Bridge, again: Callable[[Work[Any]], ShownJob], parent: QObject
    ) -> None:
        super().__init__(parent)
        self.work = work
        self.view = JobSnapshot(0, work.kind, work.title, model=work.model, work=work)
        self.is_own = own
        """This window asked for it."""
        self._bridge, self._again = bridge, again
        self._cancelled = False

    @property
    def is_over(self) -> bool:
        return self.view.status.is_over

    def cancel(self) -> None:
        """Ask it to end; `ended` comes when it has cleaned up behind itself."""
        if self.is_over or self._cancelled:
            return
        self._cancelled = True
        self.show_view(self.view)
        if self.view.id:  # else once it has its number
            self._cancel()

    def retry(self) -> ShownJob | None:
        """Do it once more as a new job, which goes on where this one was if that can be; None when it cannot."""
        return self._again(self.work) if self.view.can_retry else None

    def show_view(self, view: JobSnapshot) -> None:
        """It is like this on the desk. Nothing changes any more once it is over."""
        if self.is_over:
            return
        is_new, over = bool(view.id) and not self.view.id, view.status.is_over
        self.view = replace(view, is_ending=(self._cancelled and not over) or view.is_ending)
        self.changed.emit()
        if over:
            self.ended.emit(self.view)
        elif is_new and self._cancelled:
            self._cancel()

    def finish(self, status: JobStatus, error: ShardboardError | None = None) -> None:
        """It is over, and the desk says nothing of it."""
        self.show_view(replace(self.view, status=status, error=error, ended_at=datetime.now(UTC)))

    def _cancel(self) -> None:
        id = self.view.id
        if self._bridge.is_open:  # else the controller is closing, and ends it anyway
            self._bridge.call(lambda controller, report: controller.cancel_job(id), f"cancelling job {id}")
