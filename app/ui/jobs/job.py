"""One piece of long work as the window shows it. What it does is told by its subclasses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal

from app.errors import ShardboardError

if TYPE_CHECKING:
    from app.children.work import JobProgress
    from app.sharding.cut_process import Shard


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class JobView:
    """A job at one moment."""

    id: int
    kind: str
    """cut, add, demo or deploy"""
    title: str
    state: JobState = JobState.QUEUED
    phase: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: float = 0.0
    seconds_left: float | None = None
    """None while nobody can tell."""
    result: str = ""
    """What came of it, as a sentence."""
    error: ShardboardError | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    model: str = ""
    """The model it is about, when it is known."""
    folder: Path | None = None
    """What there is to open when it is done."""
    is_ending: bool = False
    """It was cancelled and is cleaning up behind itself."""
    can_retry: bool = False

    @property
    def fraction(self) -> float | None:
        """How much of it is done, 0 to 1; None while nobody can tell."""
        if self.state is JobState.DONE:
            return 1.0
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes > 0 else None


@dataclass(frozen=True)
class JobResult:
    """What came of a job's work."""

    text: str
    model: str = ""
    folder: Path | None = None
    details: tuple[tuple[str, object], ...] = ()
    """For the registry; JSON only."""
    shards: tuple[Shard, ...] = ()
    """What was cut."""


@dataclass(frozen=True)
class JobEnding:
    """How a job's work ended: with a result, or with an error (Cancelled among them)."""

    result: JobResult | None = None
    error: ShardboardError | None = None


class Job(QObject):
    """See the module. Lives in the GUI thread; made by `JobQueue` only."""

    changed = Signal()
    """`view` is another now; at most ten times a second."""
    ended = Signal(object)
    """The last JobView. Comes once."""

    def __init__(self, view: JobView, parent: QObject) -> None:
        super().__init__(parent)
        self.view = view

    @property
    def is_over(self) -> bool:
        return self.view.state.is_over

    def cancel(self) -> None:
        """Ask it to end; `ended` comes when it has cleaned up behind itself."""
        raise NotImplementedError

    def retry(self) -> Job | None:
        """Do it once more as a new job, which goes on where this one was if that can be; None when it cannot."""
        raise NotImplementedError

    def change(self, **fields: Any) -> None:
        """Show it with some fields of its JobView changed. Nothing changes any more once it is over."""
        if not self.is_over:
            self.view = replace(self.view, **fields)
            self.changed.emit()

    def show_progress(self, progress: JobProgress) -> None:
        self.change(
            phase=progress.phase,
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            bytes_per_second=progress.bytes_per_second,
            seconds_left=progress.seconds_left,
        )

    def begin(self, phase: str) -> None:
        self.change(state=JobState.RUNNING, phase=phase, started_at=datetime.now(UTC))

    def finish(self, state: JobState, *, error: ShardboardError | None = None, result: JobResult | None = None) -> None:
        """It is over."""
        if self.is_over:
            return
        fields: dict[str, Any] = {"seconds_left": None, "bytes_per_second": 0.0, "is_ending": False}
        if result is not None:
            fields |= {"result": result.text, "folder": result.folder, "model": result.model or self.view.model}
        self.change(state=state, error=error, phase="", ended_at=datetime.now(UTC), **fields)
        self.ended.emit(self.view)
