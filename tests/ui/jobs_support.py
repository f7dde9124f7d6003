"""What tests of jobs share: made-up jobs for the widgets, and looks at what a real one left behind."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from app.jobs.job import JobSnapshot
from app.jobs.works import AddWork
from app.registry.records import JobStatus
from app.ui.jobs.job_queue import JobQueue
from app.ui.jobs.shown_job import ShownJob


class MadeUpJob(ShownJob):
    """A job that does nothing but be shown."""

    def __init__(self, view: JobSnapshot, queue: JobQueue) -> None:
        super().__init__(AddWork("some/model"), True, queue._bridge, queue._submit, queue)
        self.view = view

    def cancel(self) -> None:
        self.finish(JobStatus.CANCELLED)

    def retry(self) -> ShownJob | None:
        return None

    def change(self, **fields: Any) -> None:
        self.show_view(replace(self.view, **fields))


def made_up(queue: JobQueue, id: int, title: str, state: JobStatus = JobStatus.QUEUED, **fields: Any) -> MadeUpJob:
    """Put a job of this look into the queue."""
    now = datetime.now(UTC)
    began = {} if state is JobStatus.QUEUED else {"started_at": now}
    ended = {"ended_at": now} if state.is_over else {}
    view = JobSnapshot(id, fields.pop("kind", "cut"), title, status=state, **{**began, **ended, **fields})
    job = MadeUpJob(view, queue)
    queue._take(job)
    return job


def children() -> list[psutil.Process]:
    """Children that do a job's work and still run; of each cutting or adding there is one.

    Other tests of the same run may have a server going.
    """
    return [child for child in psutil.Process().children() if _is_job(child)]


def _is_job(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        working = process.status() != psutil.STATUS_ZOMBIE
        return working and any(part.startswith("app.") for part in process.cmdline())
    return False


def files_in(folder: Path) -> dict[str, int]:
    """Everything below a folder, hidden things too, with sizes."""
    return {str(path.relative_to(folder)): path.stat().st_size if path.is_file() else -1 for path in folder.rglob("*")}
