"""The queue as a list for views: newest first."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from PySide6.QtCore import QAbstractListModel, QModelIndex, QObject, Qt, Signal, Slot

from app.ui.jobs.job import Job
from app.ui.jobs.job_queue import JobQueue
from app.ui.jobs.job_words import details_text, spoken_text, summary_text
from app.ui.list_delegate import Index


class JobRole(IntEnum):
    JOB = Qt.ItemDataRole.UserRole + 1
    """The Job."""
    VIEW = Qt.ItemDataRole.UserRole + 2
    """Its JobView."""


class JobsModel(QAbstractListModel):
    """Rows are jobs, newest first."""

    summary_changed = Signal(str)
    """For the status bar; empty when nothing is under way."""

    def __init__(self, queue: JobQueue, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs: list[Job] = list(reversed(queue.jobs))
        self.summary = summary_text(job.view for job in self._jobs)
        queue.job_added.connect(self._on_added)
        queue.job_changed.connect(self._on_changed)
        queue.job_removed.connect(self._on_removed)

    def rowCount(self, parent: Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._jobs)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid() or not 0 <= index.row() < len(self._jobs):
            return None
        job = self._jobs[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return job.view.title
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return spoken_text(job.view)
        if role == Qt.ItemDataRole.ToolTipRole:
            return details_text(job.view)
        if role == JobRole.JOB:
            return job
        return job.view if role == JobRole.VIEW else None

    def job(self, index: Index) -> Job | None:
        """The job of a row."""
        return self._jobs[index.row()] if index.isValid() and index.row() < len(self._jobs) else None

    def index_of(self, job: Job) -> QModelIndex:
        """Where a job is; invalid when it is gone."""
        return self.index(self._jobs.index(job), 0) if job in self._jobs else QModelIndex()

    @Slot(object)
    def _on_added(self, job: Job) -> None:
        self.beginInsertRows(QModelIndex(), 0, 0)
        self._jobs.insert(0, job)
        self.endInsertRows()
        self._tell_summary()

    @Slot(object)
    def _on_changed(self, job: Job) -> None:
        if job in self._jobs:
            index = self.index(self._jobs.index(job), 0)
            self.dataChanged.emit(index, index)
            self._tell_summary()

    @Slot(object)
    def _on_removed(self, job: Job) -> None:
        if job in self._jobs:
            row = self._jobs.index(job)
            self.beginRemoveRows(QModelIndex(), row, row)
            del self._jobs[row]
            self.endRemoveRows()
            self._tell_summary()

    def _tell_summary(self) -> None:
        summary = summary_text(job.view for job in self._jobs)
        if summary != self.summary:
            self.summary = summary
            self.summary_changed.emit(summary)
