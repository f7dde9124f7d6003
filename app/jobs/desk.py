"""The desk: all jobs of a controller. Window, HTTP and commands submit, follow, cancel and retry them here.

Each job has one record in the registry, which is written here and nowhere else. All methods belong to the
controller's loop. What a job does is told by its work (`works.py`); what blocks runs in threads of the runner's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from app.children.work import ProgressCallback, until_over
from app.errors import Cancelled, Conflict, ShardboardError
from app.inference.facts import versions
from app.jobs.job import Job, JobSnapshot, Means, Runner, Work, explained, in_python_thread
from app.registry import JobRecord, JobStatus, Registry
from app.runs.trace import JobTrace, Origin, pack

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MOST_KEPT = 200
"""Of so many jobs that are over it is known how to begin them again."""
BY_USER = "Cancelled by the user."


class JobDesk:
    """Has the jobs of one controller, begins them, ends them, and writes them down.

    Args:
        runner: runs what blocks: in QThreads where there is a window.
    """

    def __init__(self, means: Means, runner: Runner = in_python_thread) -> None:
        self._means, self._registry, self._runner = means, means.registry, runner
        self._jobs: list[Job] = []
        self._ended: dict[int, Work[Any]] = {}
        self._queues: dict[str, asyncio.Lock] = {}
        self._numbering = asyncio.Lock()
        self._listeners: list[Callable[[JobSnapshot], None]] = []
        self._closed = False

    def on_changed(self, listener: Callable[[JobSnapshot], None]) -> None:
        """Be told of each job that comes, gets on (ten times a second at most) or ends, on the loop's thread."""
        self._listeners.append(listener)

    @property
    def under_way(self) -> tuple[Job, ...]:
        """The jobs that run or wait for their turn, oldest first."""
        return tuple(self._jobs)

    def find(self, id: int) -> Job | None:
        """A job that is under way."""
        return next((job for job in self._jobs if job.id == id), None)

    async def record(self, id: int) -> JobRecord:
        """Any job, as the registry has it. Raises RegistryError when there is none."""
        return await self._registry.call(lambda known: known.jobs.get(id))

    # --- what can be asked for ---

    async def submit(self, work: Work[Any], origin: Origin) -> Job:
        """Write a job down and begin it, or have it wait until it is its turn. Returns at once.

        Raises:
            Cancelled: the controller is being closed.
            RegistryError, DiskFullError: it cannot be written down.
        """
        if self._closed:
            raise Cancelled("Shardboard is being closed.")
        job = Job(work, origin, self._runner, self._tell)
        self._jobs.append(job)
        job.task = asyncio.create_task(self._run(job), name=f"job: {work.title}")
        job.task.add_done_callback(lambda _: self._gone(job))
        cancelled = await until_over(job.written, lambda: self._end(job))
        job.written.result()
        if cancelled:
            raise asyncio.CancelledError
        return job

    async def do(self, work: Work[Result], origin: Origin, on_progress: ProgressCallback | None = None) -> Result:
        """Submit a job and wait for what it brings. Who cancels the call cancels the job.

        Raises:
            Cancelled: the job was cancelled, by whomever.
            ShardboardError: why it failed.
        """
        job = await self.submit(work, origin)
        if on_progress is not None:
            job.followers.append(on_progress)
        cancelled = await until_over(job.over, lambda: self._end(job))
        if job.failure is not None:
            raise job.failure
        if job.outcome is None:
            if cancelled:
                raise asyncio.CancelledError
            raise Cancelled(f"'{work.title}' was cancelled.")
        if cancelled:
            raise Cancelled("It was done when it was cancelled.")
        result: Result = job.outcome.value
        return result

    async def follow(self, id: int, on_progress: ProgressCallback) -> JobRecord:
        """Wait until a job is over, whoever began it. Who cancels the call only looks away. Raises RegistryError."""
        job = self.find(id)
        if job is None:
            return await self.record(id)
        job.followers.append(on_progress)
        try:
            await asyncio.wait({job.over})
        finally:
            job.followers.remove(on_progress)
        return _written(job)

    async def cancel(self, id: int) -> JobRecord:
        """End a job, whoever began it, and wait until it has cleaned up. One that was done meanwhile is done.

        Raises:
            RegistryError: there is no such job.
            Conflict: it is over.
        """
        job = self.find(id)
        if job is None:
            record = await self.record(id)
            if record.status.is_over:
                raise Conflict(f"Job {id} is over: {record.status}.")
            raise Conflict(f"Job {id} is not under way here.", "The next start of Shardboard marks it as failed.")
        self._end(job)
        await asyncio.wait({job.over})
        return _written(job)

    async def retry(self, id: int, origin: Origin) -> JobRecord:
        """Begin a job that failed or was cancelled once more, as a new one; downloads go on where they were.

        Raises:
            RegistryError: there is no such job.
            Conflict: it is done, or not over, or of an earlier start of the controller.
        """
        record = await self.record(id)
        if not _may_retry(record.status):
            raise Conflict(f"Job {id} is {record.status}.", "Only what failed or was cancelled can be begun again.")
        work = self._ended.get(id)
        if work is None:
            raise Conflict(f"What job {id} was asked for is not known any more.", "Ask for it anew.")
        return _written(await self.submit(work, origin))

    def can_retry(self, record: JobRecord) -> bool:
        """Whether `retry` would begin it again."""
        return _may_retry(record.status) and record.id in self._ended

    async def cancel_all(self, which: Callable[[Job], bool] = lambda job: True) -> None:
        """End jobs, and wait until all of them have cleaned up."""
        chosen = [job for job in self._jobs if which(job)]
        for job in chosen:
            self._end(job)
        if chosen:
            await asyncio.wait({job.over for job in chosen})

    async def close(self) -> None:
        """End all jobs and begin none any more."""
        self._closed = True
        await self.cancel_all()

    # --- within ---

    def _end(self, job: Job) -> None:
        """Cancel a job, once: a second time would break off the cleaning up."""
        if job.is_ending or job.is_past_return:
            return
        job.is_ending = True
        if job.record is not None and job.task is not None:  # else it sees to it when it has its number
            job.task.cancel()
            self._tell(job)

    def _tell(self, job: Job) -> None:
        view = job.view
        for listener in self._listeners:
            listener(view)

    async def _run(self, job: Job) -> None:
        try:
            async with self._numbering:  # one by one: the registry's threads may overtake each other, jobs must not
                await self._begin(job)
        except Exception as error:  # told to who submitted it; there is no job then
            job.written.set_exception(error)
            return
        async with AsyncExitStack() as turn:  # which is over when its end is written: then the next one's begins
            status, reason = await self._work(job, turn)
            job.is_past_return = True
            await self._write(job, status, reason)
        if not getattr(job.work, "once", False):  # nobody would have anything of its beginning again (`InviteWork`)
            self._ended[job.id] = job.work
        while len(self._ended) > MOST_KEPT:
            del self._ended[next(iter(self._ended))]
        self._tell(job)

    def _gone(self, job: Job) -> None:
        """Its task has ended, in whatever way: nobody may wait for it any more."""
        self._jobs.remove(job)
        job.over.set_result(None)
        if not job.written.done():
            job.written.set_exception(Cancelled("Shardboard is being closed."))

    async def _begin(self, job: Job) -> None:
        """Write it down for the first time."""
        work = job.work
        job.record = await self._registry.call(
            lambda known: known.jobs.add(
                kind=work.kind, title=work.title, model_name=work.model or None, origin=msgspec.to_builtins(job.origin)
            )
        )
        job.written.set_result(None)
        self._tell(job)

    async def _work(self, job: Job, turn: AsyncExitStack) -> tuple[JobStatus, str | None]:
        """Wait for its turn, do its work; how it ended, and why so."""
        try:
            if job.is_ending:
                raise asyncio.CancelledError
            await turn.enter_async_context(self._queues.setdefault(job.work.queue, asyncio.Lock()))
            if await until_over(asyncio.ensure_future(self._write(job, JobStatus.RUNNING))):
                raise asyncio.CancelledError
            self._tell(job)
            job.outcome = await job.work.do(job, self._means)
            return JobStatus.DONE, None
        except asyncio.CancelledError:
            return JobStatus.CANCELLED, BY_USER
        except Cancelled as error:
            return JobStatus.CANCELLED, str(error)
        except Exception as error:  # a bug of ours, too: the job must still end, and the log must have it
            if not isinstance(error, ShardboardError):
                log.exception("%s failed", job.work.title)
            job.failure = error
            return JobStatus.FAILED, str(explained(error))

    async def _write(self, job: Job, status: JobStatus, reason: str | None = None) -> None:
        """Write down what it has become. That this fails is logged: the work itself must not fail by it."""
        before = _written(job)
        model = before.model_name if job.outcome is None else job.outcome.model
        details = {**before.details, **job.details}
        trace = _trace(job, reason) if status.is_over else None

        def write(known: Registry) -> JobRecord:
            if trace is not None:
                known.traces.put("job", str(before.id), trace)
            return known.jobs.update(before.id, status=status, error=reason, model_name=model, details=details)

        try:
            job.record = await self._registry.call(write)
        except ShardboardError as error:
            log.error("job %d could not be written down: %s", before.id, error)
            job.record = replace(before, status=status, error=reason)


def _may_retry(status: JobStatus) -> bool:
    return status.is_over and status is not JobStatus.DONE


def _written(job: Job) -> JobRecord:
    assert job.record is not None
    return job.record


def _trace(job: Job, error: str | None) -> bytes:
    phases = job.phases.end()  # before the clock is read: none ends after the job
    took = job.phases.now_us
    return pack(JobTrace(origin=job.origin, versions=versions(), phases=phases, took_us=took, error=error))
