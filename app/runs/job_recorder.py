"""Takes down a job that runs without a window's or a server's list of jobs around it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from app.children.work import JobChain, JobProgress, ProgressCallback, in_thread
from app.errors import Cancelled, ShardboardError
from app.registry import JobStatus, Registry
from app.runs.phases import PhaseRecorder
from app.runs.trace import JobTrace, Origin, Versions, pack

log = logging.getLogger(__name__)

Result = TypeVar("Result")


async def run_job(
    registry: Registry,
    kind: str,
    title: str,
    work: Callable[[ProgressCallback | None], Result],
    told: Callable[[Result], tuple[str, Mapping[str, object]]],
    chain: JobChain,
    on_progress: ProgressCallback | None,
    origin: Origin | None,
    versions: Versions,
) -> Result:
    """Run a job in a thread; cancelling the call cancels its chain. Recorded when it is known who asked.

    Args:
        told: from its result, the model's name and the details to keep.
    """
    if origin is None:
        return await in_thread(lambda: work(on_progress), chain.cancel)
    recorder = JobRecorder(registry, origin, versions)
    return await in_thread(lambda: recorder.run(kind, title, work, told, on_progress), chain.cancel)


class JobRecorder:
    """Runs one job and keeps its row and its trace, whatever becomes of it. Blocks."""

    def __init__(self, registry: Registry, origin: Origin, versions: Versions) -> None:
        self._registry, self._origin, self._versions = registry, origin, versions
        self._phases = PhaseRecorder()

    def run(
        self,
        kind: str,
        title: str,
        work: Callable[[ProgressCallback], Result],
        told: Callable[[Result], tuple[str, Mapping[str, object]]],
        on_progress: ProgressCallback | None,
    ) -> Result:
        """What `work` returns. Raises what it raises.

        Args:
            work: is given what to report its progress to.
            told: from its result, the model's name and the details to keep.
        """
        record = self._registry.jobs.add(kind=kind, title=title, status=JobStatus.RUNNING)

        def progressed(progress: JobProgress) -> None:
            self._phases.note(progress.phase, total_bytes=progress.total_bytes)
            if on_progress is not None:
                on_progress(progress)

        try:
            result = work(progressed)
        except BaseException as error:
            status = JobStatus.CANCELLED if isinstance(error, Cancelled | KeyboardInterrupt) else JobStatus.FAILED
            self._end(record.id, status, str(error) or type(error).__name__)
            raise
        model, details = told(result)
        self._end(record.id, JobStatus.DONE, None, model, details)
        return result

    def _end(
        self,
        id: int,
        status: JobStatus,
        error: str | None,
        model: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        phases, took = self._phases.end(), self._phases.now_us
        trace = JobTrace(origin=self._origin, versions=self._versions, phases=phases, took_us=took, error=error)
        try:
            self._registry.traces.put("job", str(id), pack(trace))
            if model is None:
                self._registry.jobs.update(id, status=status, error=error)
            else:
                self._registry.jobs.update(id, status=status, model_name=model, details=dict(details or {}))
        except ShardboardError as trouble:  # the work itself must not fail by it
            log.error("job %d could not be written down: %s", id, trouble)
