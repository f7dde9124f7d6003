"""The queue as a list for views: newest first."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from PySide6.QtCore import QModelIndex, QObject, Qt, Signal, Slot

from app.ui.jobs.job_queue import JobQueue
from app.ui.jobs.job_words import details_text, spoken_text, summary_text
from app.ui.jobs.shown_job import ShownJob
from app.ui.list_delegate import Index
from app.ui.list_model import ListModel


class JobRole(IntEnum):
    JOB = Qt.ItemDataRole.UserRole + 1
    """The Job."""
    VIEW = Qt.ItemDataRole.UserRole + 2
    """Its JobSnapshot."""


class JobsModel(ListModel[ShownJob]):
    """Rows are jobs, newest first."""

    summary_changed = Signal(str)
    """For the status bar; empty when nothing is under way."""

    def __init__(self, queue: JobQueue, parent: QObject | None = None) -> None:
        super().__init__(queue.jobs[::-1], parent)
        self.summary = summary_text(job.view for job in self.rows)
        queue.job_added.connect(self._on_added)
        queue.job_changed.connect(self._on_changed)
        queue.job_removed.connect(self._on_removed)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if (job := self.row(index)) is None:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return job.view.title
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return spoken_text(job.view)
        if role == Qt.ItemDataRole.ToolTipRole:
            return details_text(job.view)
        if role == JobRole.JOB:
            return job
        return job.view if role == JobRole.VIEW else None

    def index_of(self, job: ShownJob) -> QModelIndex:
        """Where a job is; invalid when it is gone."""
        return self.index(self.rows.index(job)) if job in self.rows else QModelIndex()

    @Slot(object)
    def _on_added(self, job: ShownJob) -> None:
        self.insert(0, job)
        self._tell_summary()

    @Slot(object)
    def _on_changed(self, job: ShownJob) -> None:
        if job in self.rows:
            self.tell(self.rows.index(job))
            self._tell_summary()

    @Slot(object)
    def _on_removed(self, job: ShownJob) -> None:
        if job in self.rows:
            self.remove(self.rows.index(job))
            self._tell_summary()

    def _tell_summary(self) -> None:
        summary = summary_text(job.view for job in self.rows)
        if summary != self.summary:
            self.summary = summary
            self.summary_changed.emit(summary)
