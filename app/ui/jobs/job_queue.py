"""The queue of long work: what runs, what waits for its turn, and what came of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QObject, Signal, Slot

from app.ui.bridge import Bridge, Call
from app.ui.jobs.followed_job import Describe, FollowedJob, Reader, Retry
from app.ui.jobs.job import Job, JobState, JobView
from app.ui.jobs.job_records import JobRecords
from app.ui.jobs.job_work import AddWork, CutWork, DemoWork, Work
from app.ui.jobs.thread_job import ThreadJob

__all__ = ["Job", "JobQueue", "JobState", "JobView"]

CLOSE_SECONDS = 10.0
"""How long `close` waits for all threads together; a child gets 3 s to clean up before it is killed."""
RECORD_SECONDS = 2.0


class JobQueue(QObject):
    """See the module. One cut at a time, one addition at a time, followed calls beside them."""

    job_added = Signal(object)
    """The Job, now last of `jobs`."""
    job_changed = Signal(object)
    job_removed = Signal(object)
    """The Job, which is in `jobs` no more."""
    job_ended = Signal(object)
    """The Job; not emitted while the queue is being closed."""

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.jobs: list[Job] = []
        """Oldest first."""
        self.is_closed = False
        self._bridge = bridge
        self._ids = itertools.count(1)
        self._records = JobRecords(bridge, self)

    # --- what can be asked for ---

    def cut(
        self,
        model: str,
        ranges_or_count: int | str | Sequence[tuple[int, int]],
        output_dir: Path,
        *,
        register: bool = False,
    ) -> Job:
        """Cut a model of the library, or in a folder, into shard folders.

        Args:
            ranges_or_count: a number of shards, text like 0-9,10-20, or layers [start, end).
            register: enter the shards in the registry.
        """
        plan = ranges_or_count if isinstance(ranges_or_count, int | str) else tuple(ranges_or_count)
        return self._enqueue(CutWork(model, plan, output_dir, register))

    def add_model(self, source: str, *, name: str | None = None, revision: str | None = None) -> Job:
        """Add a model from a folder, a GGUF file or a Hub id to the library."""
        return self._enqueue(AddWork(source, name, revision))

    def add_demo_model(self) -> Job:
        """Fetch the demo's model unless the library has it."""
        return self._enqueue(DemoWork())

    def follow(
        self,
        kind: str,
        title: str,
        call: Call,
        read: Reader,
        *,
        retry: Retry | None = None,
        describe: Describe | None = None,
        model: str = "",
    ) -> Job:
        """Show a call that somebody else has just begun.

        Args:
            read: makes a `JobProgress` of an item that the call reported; None for what says nothing.
            retry: begins it again, and follows that itself; None when that cannot be.
            describe: makes a sentence of the call's result.
        """
        job = FollowedJob(
            next(self._ids), kind, title, call, read, retry=retry, describe=describe, model=model, parent=self
        )
        self._take(job)
        return job

    def busy(self) -> list[Job]:
        """What runs or waits."""
        return [job for job in self.jobs if not job.is_over]

    def remove(self, job: Job) -> None:
        """Forget a job that is over; one that is not stays."""
        if job.is_over and job in self.jobs:
            self.jobs.remove(job)
            self.job_removed.emit(job)
            job.deleteLater()

    def clear_finished(self) -> None:
        for job in [job for job in self.jobs if job.is_over]:
            self.remove(job)

    # --- within ---

    def _enqueue(self, work: Work) -> Job:
        job = ThreadJob(next(self._ids), work, self._bridge, self._enqueue, self)
        self._take(job)
        self._records.follow(job)
        if self.is_closed:
            job.cancel()
        self._start_next()
        return job

    def _take(self, job: Job) -> None:
        self.jobs.append(job)
        job.changed.connect(self._on_changed)
        job.ended.connect(self._on_ended)
        self.job_added.emit(job)

    @Slot()
    def _on_changed(self) -> None:
        job = self.sender()
        if isinstance(job, Job):
            self.job_changed.emit(job)

    @Slot(object)
    def _on_ended(self, view: JobView) -> None:
        if self.is_closed:
            return
        job = next((job for job in self.jobs if job.view.id == view.id), None)
        if job is not None:
            self.job_ended.emit(job)
        self._start_next()

    def _start_next(self) -> None:
        """Start the first that waits in each lane where nothing runs."""
        if self.is_closed:
            return
        waiting = [job for job in self.jobs if isinstance(job, ThreadJob) and not job.is_over]
        taken: set[str] = set()
        for job in waiting:  # in order, so what runs comes before what waits
            if job.work.lane not in taken:
                taken.add(job.work.lane)
                if job.view.state is JobState.QUEUED:
                    job.start()

    def close(self) -> tuple[JobView, ...]:
        """Cancel all and wait until the threads have ended; what was cancelled. Nothing starts any more.

        Blocks for `CLOSE_SECONDS` and `RECORD_SECONDS` at most. To keep the window alive meanwhile, cancel what is
        `busy` first and call this when all of it has ended.
        """
        if self.is_closed:
            return ()
        self.is_closed = True
        busy = self.busy()
        for job in busy:
            job.cancel()
        deadline = time.monotonic() + CLOSE_SECONDS
        for job in busy:
            if isinstance(job, ThreadJob):
                job.join(deadline - time.monotonic())
            elif isinstance(job, FollowedJob):
                job.abandon()
        self._records.flush(RECORD_SECONDS)
        return tuple(job.view for job in busy if job.view.state is JobState.CANCELLED)
