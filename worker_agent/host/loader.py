"""The thread that builds stages: verifies their parts, then loads them, one at a time."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakSet

from worker_agent.engine.loading import drop_stage, load_stage
from worker_agent.engine.runtime import Runtime
from worker_agent.engine.stage import Stage, journal_bytes, twin_of
from worker_agent.engine.warming import warm_up
from worker_agent.host.budget import MemoryBudget
from worker_agent.store.shard_store import ShardStore
from worker_agent.wire.errors import AgentError
from worker_agent.wire.messages import Load, Part

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.2
IDLE_SECONDS = 2.0
"""After so long without a job the loader gets ready for the first one."""


class LoadCancelled(AgentError):
    """The stage was unloaded while it was being loaded."""

    kind = "cancelled"


@dataclass(frozen=True)
class LoadJob:
    """A stage to build, and whom to tell. All three are called in the loader's thread, one of the last two once."""

    load: Load
    config: bytes
    parts: tuple[Part, ...]
    on_progress: Callable[[int, int], None]
    on_loaded: Callable[[Stage, float], None]
    """(stage, seconds it took)"""
    on_failed: Callable[[BaseException], None]
    cancelled: threading.Event = field(default_factory=threading.Event)


class Loader(threading.Thread):
    """Takes jobs in order. What a stage takes of the memory budget is booked here, before the next one begins.

    Args:
        process_memory: gives the bytes that this process holds; it may wait for a moment.
    """

    def __init__(
        self, store: ShardStore, budget: MemoryBudget, runtime: Runtime, process_memory: Callable[[], int]
    ) -> None:
        super().__init__(name="loader", daemon=True)
        self._store = store
        self._budget = budget
        self._runtime = runtime
        self._process_memory = process_memory
        self._queue: queue.Queue[LoadJob | None] = queue.Queue()
        self._current: LoadJob | None = None
        self._built = WeakSet[Stage]()
        self._stopping = False
        self.ready_memory = 0
        """Bytes that the process held when it had become ready, before its first stage."""
        self.ready_since = 0.0
        """When the code that stages need had come into memory, by the monotonic clock; 0 before that."""

    @property
    def is_busy(self) -> bool:
        """Whether a stage is being loaded, or about to be."""
        return self._current is not None or not self._queue.empty()

    def submit(self, job: LoadJob) -> None:
        self._queue.put(job)

    def stop(self) -> None:
        """End soon: the job under way fails at its next progress report."""
        self._stopping = True
        current = self._current
        if current is not None:
            current.cancelled.set()
        self._queue.put(None)

    def run(self) -> None:
        job = self._first()
        while job is not None and not self._stopping:
            self._current = job
            self._build(job)
            self._current = None
            job = self._queue.get()

    def _first(self) -> LoadJob | None:
        """The first job. Before it, or while none comes, the process takes in what any stage needs."""
        job, waiting = None, False
        try:
            job = self._queue.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            waiting = True
        if not self._stopping:
            try:
                warm_up(self._runtime)
            # what is wrong with this machine is told when a stage is to be loaded
            except Exception:
                log.exception("no stage could be loaded for a trial")
            self.ready_memory = self._process_memory()
            self.ready_since = time.monotonic()
        return self._queue.get() if waiting else job

    def _build(self, job: LoadJob) -> None:
        load = job.load
        begun = time.monotonic()
        try:
            report = _Progress(job)
            report(0, sum(part.nbytes for part in job.parts))
            for part in job.parts:
                self._store.verify(part.digest, part.nbytes)
                report.beat()
            free = self._budget.free
            twin = twin_of(list(self._built), load, job.config, job.parts, free)
            stage = twin or load_stage(load, job.config, job.parts, self._store.path, self._runtime, free, report)
            if job.cancelled.is_set():  # since the last report: nobody will unload it
                drop_stage(stage)
                report.check()
            self._built.add(stage)
            log.info(
                "loaded layers %d-%d of %s in %.1f s (%s; %s)%s",
                load.start, load.end - 1, load.model, time.monotonic() - begun, load.dtype, stage.ways,
                ", over weights that another deployment has here" if twin else "",
            )  # fmt: skip
            beside = stage.kv_bytes + journal_bytes(load, stage.device)
            self._budget.take(load.deployment, load.stage, beside, stage.weights, stage.weights.nbytes)
            job.on_loaded(stage, time.monotonic() - begun)
        except AgentError as error:
            log.warning("stage %d of %s was not loaded: %s", load.stage, load.deployment, error)
            job.on_failed(error)
        # a job begins here; whatever its end, somebody waits for the news
        except Exception as error:
            log.exception("stage %d of %s was not loaded", load.stage, load.deployment)
            job.on_failed(error)


class _Progress:
    """Passes progress on at most every PROGRESS_SECONDS, and ends the job once it was cancelled."""

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._told = 0.0
        self._last = (0, 0)

    def __call__(self, done: int, total: int) -> None:
        self._last = (done, total)
        self.check()
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._job.on_progress(done, total)

    def beat(self) -> None:
        """Still at work, nothing new to tell."""
        self(*self._last)

    def check(self) -> None:
        if self._job.cancelled.is_set():
            raise LoadCancelled("The stage was unloaded, or the agent was stopped, before it was loaded.")
