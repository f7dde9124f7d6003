"""Work that goes on after its request was answered: adding a model, cutting one, deploying one.

Each job is written down in the registry like those of the window, so it shows in Runs and can be asked for after it
ended, or after the server did.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from app.api.failures import Conflict, NotFound, Overloaded
from app.children.work import JobProgress
from app.controller import Controller
from app.errors import Cancelled, ShardboardError
from app.inference.facts import versions
from app.registry import JobRecord, JobStatus
from app.runs.phases import PhaseRecorder
from app.runs.trace import JobTrace, Origin, pack

log = logging.getLogger(__name__)

MOST_JOBS = 32
"""Under way or waiting at a time."""


@dataclass(frozen=True)
class Outcome:
    """What came of a job: the model it was about, and details for its record."""

    model: str
    details: Mapping[str, object]


@dataclass
class BackgroundJob:
    """A job that is not over. Its record is as it was last written."""

    record: JobRecord
    origin: Origin
    progress: JobProgress | None = None
    phases: PhaseRecorder = field(default_factory=PhaseRecorder)
    task: asyncio.Task[None] | None = None

    def report(
        self,
        progress: JobProgress,
        *,
        phase: str = "",
        node_id: int | None = None,
        node: str = "",
        already_bytes: int = 0,
    ) -> None:
        """How far it is. On the loop.

        Args:
            phase: its name in the trace, where that of the progress says more than the name.
        """
        self.progress = progress
        self.phases.note(
            phase or progress.phase,
            node_id=node_id,
            node=node,
            total_bytes=progress.total_bytes,
            already_bytes=already_bytes,
        )


class Reporter:
    """Brings progress from the thread of a child's supervisor to the loop."""

    def __init__(self, job: BackgroundJob) -> None:
        self._job, self._loop = job, asyncio.get_running_loop()

    def __call__(self, progress: JobProgress) -> None:
        self._loop.call_soon_threadsafe(self._job.report, progress)


Work = Callable[[BackgroundJob], Awaitable[Outcome]]


class BackgroundJobs:
    """All jobs that one server has begun. Jobs of one lane run one after another. Belongs to the loop."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._jobs: dict[int, BackgroundJob] = {}
        self._lanes: dict[str, asyncio.Lock] = {}
        self._beginning = 0

    async def begin(self, kind: str, title: str, model: str, work: Work, origin: Origin, *, lane: str) -> JobRecord:
        """Write a job down and start it. Raises Overloaded."""
        if len(self._jobs) + self._beginning >= MOST_JOBS:
            raise Overloaded(f"{MOST_JOBS} jobs are under way already.", "Wait for one to end, or cancel one.")
        self._beginning += 1
        try:
            add = functools.partial(self._controller.registry.jobs.add, kind=kind, title=title, model_name=model)
            job = BackgroundJob(await asyncio.to_thread(add), origin)
        finally:
            self._beginning -= 1
        self._jobs[job.record.id] = job
        job.task = asyncio.create_task(self._run(job, work, lane), name=f"job {job.record.id}")
        return job.record

    def find(self, id: int) -> BackgroundJob | None:
        """A job that is not over."""
        return self._jobs.get(id)

    async def cancel(self, id: int) -> JobRecord:
        """End a job and wait until it has cleaned up. Raises NotFound, Conflict."""
        job = self._jobs.get(id)
        if job is None:
            record = await self.record(id)
            if not record.status.is_over:
                raise Conflict(f"Job {id} was not begun here.", "Cancel it where it was begun: in the window.")
            raise Conflict(f"Job {id} is over: {record.status}.")
        await self._end(job)
        return await self.record(id)

    async def record(self, id: int) -> JobRecord:
        """A job as the registry has it. Raises NotFound."""
        try:
            return await asyncio.to_thread(self._controller.registry.jobs.get, id)
        except ShardboardError as error:
            if error.__cause__ is not None:
                raise
            raise NotFound(error.message, error.advice) from None

    async def close(self) -> None:
        """Cancel what is under way and wait for it."""
        await asyncio.gather(*(self._end(job) for job in list(self._jobs.values())))

    async def _end(self, job: BackgroundJob) -> None:
        if job.task is not None:
            if not job.task.cancelling():  # a second one would break off the cleaning up
                job.task.cancel()
            await asyncio.wait({job.task})

    async def _run(self, job: BackgroundJob, work: Work, lane: str) -> None:
        try:
            async with self._lanes.setdefault(lane, asyncio.Lock()):
                await self._write(job, JobStatus.RUNNING)
                outcome = await work(job)
            await self._write(job, JobStatus.DONE, outcome=outcome)
        except asyncio.CancelledError:
            await asyncio.shield(self._write(job, JobStatus.CANCELLED, error="Cancelled by the user."))
        except Cancelled as error:
            await self._write(job, JobStatus.CANCELLED, error=str(error))
        except ShardboardError as error:
            await self._write(job, JobStatus.FAILED, error=str(error))
        except Exception as error:  # a bug of ours: the job must still end, and the log must have it
            log.exception("job %d failed", job.record.id)
            await self._write(job, JobStatus.FAILED, error=f"{type(error).__name__}: {error}. This is a bug.")
        finally:
            self._jobs.pop(job.record.id, None)

    async def _write(
        self, job: BackgroundJob, status: JobStatus, *, error: str | None = None, outcome: Outcome | None = None
    ) -> None:
        registry, id = self._controller.registry, job.record.id
        trace = _trace(job, error) if status.is_over else None

        def write() -> JobRecord:
            if trace is not None:
                registry.traces.put("job", str(id), trace)
            if outcome is None:
                return registry.jobs.update(id, status=status, error=error)
            return registry.jobs.update(
                id, status=status, error=error, model_name=outcome.model, details=dict(outcome.details)
            )

        try:
            job.record = await asyncio.to_thread(write)
        except ShardboardError as failure:  # the work itself must not fail by it
            log.error("job %d could not be written down: %s", id, failure)


def _trace(job: BackgroundJob, error: str | None) -> bytes:
    took = job.phases.now_us
    return pack(JobTrace(origin=job.origin, versions=versions(), phases=job.phases.end(), took_us=took, error=error))
