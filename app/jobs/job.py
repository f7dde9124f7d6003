"""One job: what it does, how far it is, what came of it. The desk runs it; whoever asks is told by its view."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from app.children.work import REPORT_SECONDS, JobChain, JobProgress, NodeProgress, ProgressCallback, Unit, until_over
from app.errors import Cancelled, ShardboardError
from app.registry.records import JobRecord, JobStatus
from app.runs.phases import PhaseRecorder
from app.runs.run import JobFacts, Run
from app.runs.trace import UNKNOWN, JobTrace, Origin

if TYPE_CHECKING:
    from app.cluster.controller_identity import ControllerIdentity
    from app.cluster.nodes import NodeDirectory
    from app.inference.deployments import Deployments
    from app.inference.service import InferenceService
    from app.launchers.launchers import Launchers
    from app.models.library import ModelLibrary
    from app.registry import Registry

Result = TypeVar("Result")
Covariant = TypeVar("Covariant", covariant=True)


@dataclass(frozen=True)
class Outcome(Generic[Covariant]):
    """What came of a job's work."""

    value: Covariant
    """For the caller who waits for it."""
    model: str
    """The model it was about."""
    text: str = ""
    """The same as a sentence."""
    folder: Path | None = None
    """What there is to open."""


@dataclass(frozen=True)
class Means:
    """What works work with: parts of the controller that has the desk."""

    registry: Registry
    library: ModelLibrary
    deployments: Deployments
    inference: InferenceService
    nodes: NodeDirectory
    launchers: Launchers
    identity: ControllerIdentity


class Work(Protocol[Covariant]):
    """What a job does. A recipe: it can be begun again, and each beginning is another job."""

    @property
    def kind(self) -> str:
        """cut, add, demo, deploy, measure, links, local, ssh, ray, update or invite"""
        ...

    @property
    def queue(self) -> str:
        """Works of one queue are done one after another."""
        ...

    @property
    def title(self) -> str: ...

    @property
    def model(self) -> str:
        """The model it is about; empty while that is not known."""
        ...

    async def do(self, job: Job, means: Means) -> Outcome[Covariant]:
        """On the controller's loop. Blocking work goes through `job.in_thread`. Raises ShardboardError, Cancelled."""
        ...


class Runner(Protocol):
    """Runs what blocks in a thread of its own. Called on the loop; `work` raises what the future then raises."""

    def __call__(self, work: Callable[[], Result], name: str) -> asyncio.Future[Result]: ...


def in_python_thread(work: Callable[[], Result], name: str) -> asyncio.Future[Result]:
    """The runner of a controller without a window."""
    return asyncio.ensure_future(asyncio.to_thread(work))


@dataclass(frozen=True)
class JobSnapshot:
    """A job at one moment, for any thread."""

    id: int
    """Its number in the registry; 0 of what has none, or none yet."""
    kind: str
    """cut, add, demo, deploy, measure, links, local, ssh, ray, update or invite"""
    title: str
    status: JobStatus = JobStatus.QUEUED
    phase: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: float = 0.0
    seconds_left: float | None = None
    """None while nobody can tell."""
    unit: Unit = "bytes"
    """What is counted, where it is no bytes."""
    nodes: tuple[NodeProgress, ...] = ()
    """How far each of the nodes is that it is about."""
    result: str = ""
    """What came of it, as a sentence."""
    error: ShardboardError | None = None
    """Of one that failed."""
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_at: datetime | None = None
    ended_at: datetime | None = None
    model: str = ""
    """The model it is about, when it is known."""
    folder: Path | None = None
    """What there is to open when it is done."""
    details: Mapping[str, object] = field(default_factory=dict)
    """What the registry has of it once it is over."""
    is_ending: bool = False
    """It was cancelled and is cleaning up behind itself."""
    can_retry: bool = False
    origin: Origin = UNKNOWN
    """Who asked for it."""
    work: Work[Any] | None = field(default=None, compare=False)
    """What it does, to begin it again."""

    @property
    def progress(self) -> JobProgress:
        """How far it is, as it is told everywhere."""
        return JobProgress(
            self.phase or "waiting", self.done_bytes, self.total_bytes, self.bytes_per_second, self.seconds_left,
            self.nodes, self.unit,
        )  # fmt: skip

    @property
    def run(self) -> Run:
        """It as runs are told, as far as it has come."""
        return Run(
            kind="job", id=str(self.id), model=self.model or None, status=self.status, created_at=self.created_at,
            started_at=self.started_at, completed_at=self.ended_at, error=str(self.error) if self.error else None,
            job=JobFacts(kind=self.kind, title=self.title, details=dict(self.details)),
            trace=JobTrace(origin=self.origin),
        )  # fmt: skip

    @property
    def fraction(self) -> float | None:
        """How much of it is done, 0 to 1; None while nobody can tell."""
        if self.status is JobStatus.DONE:
            return 1.0
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes > 0 else None


class Job:
    """A work under way, with its record. Made by the desk only; belongs to the controller's loop."""

    def __init__(self, work: Work[Any], origin: Origin, runner: Runner, on_changed: Callable[[Job], None]) -> None:
        loop = asyncio.get_running_loop()
        self.work, self.origin = work, origin
        self.record: JobRecord | None = None
        """As it was last written; None until it was for the first time."""
        self.is_ending = False
        """It was cancelled."""
        self.is_past_return = False
        """Who cancels it now comes too late."""
        self.progress: JobProgress | None = None
        self.outcome: Outcome[Any] | None = None
        self.failure: Exception | None = None
        self.details: dict[str, object] = {}
        """What the registry is to have of it, however it ends; its work puts it there. JSON only."""
        self.phases = PhaseRecorder()
        self.written: asyncio.Future[None] = loop.create_future()
        """Done once it has its number. Raises what the registry did."""
        self.over: asyncio.Future[None] = loop.create_future()
        """Done once all is cleaned up and written down."""
        self.task: asyncio.Task[None] | None = None
        self.followers: list[ProgressCallback] = []
        """Told of its progress, on the loop."""
        self._runner, self._on_changed = runner, on_changed
        self._told_at, self._phase = 0.0, ""

    @property
    def id(self) -> int:
        return 0 if self.record is None else self.record.id

    @property
    def view(self) -> JobSnapshot:
        """It as it is now."""
        record, now = self.record, self.progress
        status = JobStatus.QUEUED if record is None else record.status
        over, done = status.is_over, self.outcome
        runs = status is JobStatus.RUNNING
        return JobSnapshot(
            self.id, self.work.kind, self.work.title, status,
            phase=(now.phase if now is not None else "starting") if runs else "",
            done_bytes=now.done_bytes if now is not None else 0,
            total_bytes=now.total_bytes if now is not None else 0,
            bytes_per_second=now.bytes_per_second if now is not None and runs else 0.0,
            seconds_left=now.seconds_left if now is not None and runs else None,
            unit=now.unit if now is not None else "bytes",
            nodes=now.nodes if now is not None and runs else (),
            result=done.text if over and done is not None else "",
            error=explained(self.failure) if self.failure is not None else None,
            **({} if record is None else {"created_at": record.created_at}),
            started_at=None if record is None else record.started_at,
            ended_at=None if record is None else record.completed_at,
            model=done.model if done is not None else self.work.model,
            folder=done.folder if over and done is not None else None,
            details=dict(self.details) if over else {},
            is_ending=self.is_ending and not over,
            can_retry=over and status is not JobStatus.DONE,
            origin=self.origin,
            work=self.work,
        )  # fmt: skip

    # --- for its work ---

    async def in_thread(self, work: Callable[[ProgressCallback, JobChain], Result]) -> Result:
        """Do what blocks in a thread of the runner's.

        A job that is cancelled meanwhile ends when the thread has cleaned up behind itself; where that was done
        before it heard of it, the job goes on with its result.

        Args:
            work: gets what takes its progress, in any thread, and the chain that cancels it.
        """
        loop, chain = asyncio.get_running_loop(), JobChain()

        def report(progress: JobProgress) -> None:
            loop.call_soon_threadsafe(self.report, progress)

        return await self.ended(self._runner(lambda: work(report, chain), self.work.kind), chain.cancel)

    async def ended(self, work: asyncio.Future[Result], cancel: Callable[[], None] = lambda: None) -> Result:
        """Wait for a part of the work, which has `cancel` called and cleans up when the job is cancelled meanwhile.

        Where it was done before it heard of it, the job goes on with its result.
        """
        if await until_over(work, cancel) and isinstance(work.exception(), Cancelled):
            raise asyncio.CancelledError
        return work.result()

    def past_return(self) -> None:
        """What cannot be undone is done, what is left is quick: who cancels from here on comes too late."""
        self.is_past_return = True

    def report(self, progress: JobProgress) -> None:
        """How far it is."""
        moved = progress.total_bytes if progress.unit == "bytes" else 0
        self.phases.note(progress.phase, total_bytes=moved, already_bytes=progress.already_bytes)
        self.progress = progress
        for follower in self.followers:
            follower(progress)
        now = time.monotonic()
        if progress.phase != self._phase or now - self._told_at >= REPORT_SECONDS:
            self._told_at, self._phase = now, progress.phase
            self._on_changed(self)


def explained(failure: Exception) -> ShardboardError:
    """Why a job failed, as its user reads it: our errors as they are, anything else as a bug."""
    if isinstance(failure, ShardboardError):
        return failure
    error = ShardboardError(f"{type(failure).__name__}: {failure}. This is a bug.", "The log has the details.")
    error.__cause__ = failure
    return error
