"""Long work that was asked for and what came of it; kept for as long as nobody prunes it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TypedDict, Unpack

from peewee import Expression

from app.registry.conditions import among, matching, numbered, saying, within
from app.registry.fields import now
from app.registry.records import JobRecord, JobStatus
from app.registry.table import Row, Table
from app.registry.tables import Job

_UNDER_WAY = [status for status in JobStatus if not status.is_over]
_OVER = [status for status in JobStatus if status.is_over]


class JobChanges(TypedDict, total=False):
    """What `Jobs.update` can change."""

    title: str
    model_name: str | None
    status: JobStatus
    error: str | None
    details: dict[str, object]


class JobQuery(TypedDict, total=False):
    """What a listing of jobs can be narrowed down to; all that is given must hold."""

    text: str | None
    """Part of the title, the model's name or the error."""
    status: JobStatus | Collection[JobStatus] | None
    kind: str | None
    model_name: str | None
    since: datetime | None
    until: datetime | None
    after_id: int | None
    last_id: int | None


class Jobs(Table[JobRecord]):
    model = Job
    noun = "job"
    order = ("-created_at", "-id")

    def add(
        self,
        *,
        kind: str,
        title: str,
        model_name: str | None = None,
        status: JobStatus = JobStatus.QUEUED,
        details: dict[str, object] | None = None,
        origin: dict[str, str] | None = None,
    ) -> JobRecord:
        """Add a job, queued unless it runs at once. `details` must be JSON's."""
        return self._add(
            {
                "kind": kind,
                "title": title,
                "model_name": model_name,
                "status": status,
                "details": details or {},
                "origin": origin or {},
                **({"started_at": now()} if status is JobStatus.RUNNING else {}),
            }
        )

    def get(self, id: int) -> JobRecord:
        return self._get(id)

    def list(self, *, offset: int = 0, limit: int = 100, **query: Unpack[JobQuery]) -> list[JobRecord]:
        """A page of jobs, newest first."""
        return self._list(*_filter(query), offset=offset, limit=limit)

    def count(self, **query: Unpack[JobQuery]) -> int:
        return self._count(*_filter(query))

    def position(self, id: int, **query: Unpack[JobQuery]) -> int | None:
        """The row at which a listing has this job; None when it does not have it."""
        return self._position(id, *_filter(query))

    def update(self, id: int, **changes: Unpack[JobChanges]) -> JobRecord:
        """Change a job; the times it was started and completed follow from its status.

        Raises RegistryError when it is over already and would get another status.
        """
        return self._advance(id, changes, JobStatus.RUNNING)

    def remove(self, id: int) -> JobRecord:
        """Forget a job and return what it was. Nothing that it made is touched."""
        return self._remove(id)

    def prune(self, before: datetime) -> int:
        """Remove jobs that are over and were asked for before a time; returns how many."""
        old = Job.status.in_(_OVER) & (Job.created_at < before)
        return self._write(lambda database: self._delete(database, old))

    def fail_interrupted(self, reason: str) -> int:
        """Mark the jobs that were under way when the program died as failed; returns how many."""
        query = Job.update({Job.status: JobStatus.FAILED, Job.error: reason, Job.completed_at: now()}).where(
            Job.status.in_(_UNDER_WAY)
        )
        return int(self._write(lambda database: query.execute(database)))

    def _record(self, row: Row) -> JobRecord:
        return JobRecord(**{**row, "status": JobStatus(row["status"])})


def _filter(query: JobQuery) -> tuple[Expression | None, ...]:
    return (
        among(Job.status, query.get("status")),
        matching(Job.kind, query.get("kind")),
        matching(Job.model_name, query.get("model_name")),
        *within(Job.created_at, query.get("since"), query.get("until")),
        *numbered(Job.id, query.get("after_id"), query.get("last_id")),
        saying(query.get("text"), Job.title, Job.model_name, Job.error),
    )
