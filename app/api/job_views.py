"""What is answered of jobs: what each is, who asked for it, how far it is."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import to_builtins
from pydantic import BaseModel, Field

from app.children.work import JobProgress, Unit
from app.jobs.desk import JobDesk
from app.progress import progress_words
from app.registry import JobRecord
from app.runs.telling import origin_text
from app.runs.trace import origin_of


class NodeProgressView(BaseModel):
    """How far one node is with what a job brings it."""

    node_id: int | None
    node: str = Field(description="its name")
    phase: str
    done_bytes: int
    total_bytes: int
    already_bytes: int = Field(description="of those that are done, what the node held before")
    bytes_per_second: float


class ProgressView(BaseModel):
    """How far a job is."""

    phase: str
    done_bytes: int
    total_bytes: int
    bytes_per_second: float
    seconds_left: float | None
    unit: Unit = Field(description="what done_bytes and total_bytes count")
    in_words: str = Field(description="the same as a line of text")
    nodes: list[NodeProgressView] = Field(description="how far each node is that a deployment is to run on")

    @classmethod
    def of(cls, told: JobProgress) -> ProgressView:
        return cls(
            phase=told.phase, done_bytes=told.done_bytes, total_bytes=told.total_bytes,
            bytes_per_second=told.bytes_per_second, seconds_left=told.seconds_left,
            unit=told.unit, in_words=progress_words(told),
            nodes=[NodeProgressView(**to_builtins(node)) for node in told.nodes],
        )  # fmt: skip


class JobView(BaseModel):
    """Background work: what it is, how far, what came of it."""

    id: int
    kind: str = Field(description="add, demo, cut, deploy, measure, links, local, ssh, ray, update or invite")
    title: str
    asked_by: str = Field(description="who asked for it, and where; empty of one of before that was written down")
    model: str | None
    status: str
    error: str | None
    details: dict[str, Any]
    progress: ProgressView | None = Field(default=None, description="while it runs")
    can_retry: bool = Field(description="whether it can be begun once more")
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @classmethod
    def of(cls, record: JobRecord, desk: JobDesk) -> JobView:
        job = desk.find(record.id)
        told = None if job is None or record.status.is_over else job.progress
        return cls(
            id=record.id, kind=record.kind, title=record.title,
            asked_by=origin_text(origin_of(record.origin)) if record.origin else "", model=record.model_name or None,
            status=record.status, error=record.error, details=record.details, created_at=record.created_at,
            started_at=record.started_at, completed_at=record.completed_at,
            progress=None if told is None else ProgressView.of(told), can_retry=desk.can_retry(record),
        )  # fmt: skip


class JobList(BaseModel):
    jobs: list[JobView]
