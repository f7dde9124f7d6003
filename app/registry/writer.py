"""The one thread that writes. Its errors come back to who asked for the write.

Writes that wait while the disk is busy go into the next transaction together, each in a savepoint of its own: one of
them may fail and the others are kept, and two hundred answers that are being written down cost one trip to the disk.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from peewee import Database

from app.errors import RegistryError
from app.registry.failures import DATABASE_ERRORS, origin
from app.registry.lock import ControllerLock

T = TypeVar("T")

GROUP = 256
"""So many waiting writes at most share a transaction."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[Database], Any]
    atomic: bool
    done: Future[Any]


class Writer:
    """Runs jobs one after another on the writing connection.

    Args:
        database: the writing connection's database; only the writer's thread touches it.
        begin: what a writing transaction begins with.
        lock: taken before every connect; None beside another controller.
    """

    def __init__(self, database: Database, begin: tuple[str, ...], lock: ControllerLock | None) -> None:
        self._database = database
        self._begin = begin
        self._lock = lock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._held: _Job | None = None
        """Taken from the queue and not begun: it may not share the transaction of those before it."""
        # A daemon, so that a program that forgets to close the registry can still end: what was committed is safe.
        self._thread = threading.Thread(target=self._run, name="registry-writer", daemon=True)
        self._thread.start()

    def write(self, work: Callable[[Database], T]) -> T:
        """Run `work` in a transaction and return what it returns, once that is on the disk.

        An exception of `work` rolls the transaction back and is raised here.
        """
        return self._submit(work, atomic=True).result()

    def write_later(self, work: Callable[[Database], T]) -> Future[T]:
        """As `write`, without waiting for it. Done when it is on the disk."""
        return self._submit(work, atomic=True)

    def run(self, work: Callable[[Database], T]) -> T:
        """Run `work` on the writing connection without a transaction, for what makes its own."""
        return self._submit(work, atomic=False).result()

    def close(self) -> None:
        """Finish what was asked for, close the connection and give back the lock."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _submit(self, work: Callable[[Database], T], *, atomic: bool) -> Future[T]:
        if threading.current_thread() is self._thread:
            raise RuntimeError("a write inside a write would wait for itself")
        done: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise RegistryError("The registry is closed.")
            self._jobs.put(_Job(work, atomic, done))
        return done

    def _run(self) -> None:
        closing = False
        while not closing:
            jobs, closing = self._next()
            if len(jobs) == 1:
                self._execute(jobs[0])
            elif jobs:
                self._execute_together(jobs)
            # A caller's objects are not kept alive until the next write.
            del jobs
        self._disconnect()

    def _next(self) -> tuple[list[_Job], bool]:
        """What to do next, in order, and whether that is the end: one job, or several that may share a transaction."""
        jobs: list[_Job] = []
        if self._held is not None:
            jobs, self._held = [self._held], None
        while len(jobs) < GROUP and (not jobs or jobs[0].atomic):
            try:
                job = self._jobs.get(block=not jobs)
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            if jobs and not job.atomic:
                self._held = job
                break
            jobs.append(job)
        return jobs, False

    def _execute_together(self, jobs: list[_Job]) -> None:
        """Several writes in one transaction. When the transaction itself fails, all of them failed."""
        outcomes: list[tuple[_Job, Any, BaseException | None]] = []
        kept = True
        try:
            self._connect()
            with self._database.atomic(*self._begin):
                for job in jobs:
                    try:
                        with self._database.savepoint():
                            result = job.work(self._database)
                    except DATABASE_ERRORS:
                        # A full disk, for one, takes the whole transaction along.
                        raise
                    except BaseException as raised:
                        outcomes.append((job, None, raised))
                    else:
                        outcomes.append((job, result, None))
        except BaseException:
            kept = False
        if not kept:
            # Nothing of the group was kept. Each by itself: whose fault it was gets the error, the rest are written.
            # On a new connection: Peewee may believe in a transaction that the database has given up. And not inside
            # the handler, or the group's error would stand as the origin of each one's own.
            self._drop_connection()
            for job in jobs:
                self._execute(job)
            return
        for job, result, error in outcomes:
            if error is None:
                job.done.set_result(result)
            else:
                job.done.set_exception(origin(error))

    def _execute(self, job: _Job) -> None:
        try:
            self._connect()
            with self._database.atomic(*self._begin) if job.atomic else nullcontext():
                result = job.work(self._database)
        except BaseException as error:
            # Whatever it is, it is the caller's: this thread has to serve the others.
            job.done.set_exception(origin(error))
            if isinstance(error, DATABASE_ERRORS) and not self._database.is_connection_usable():
                self._drop_connection()
        else:
            job.done.set_result(result)

    def _connect(self) -> None:
        if self._lock is not None:
            self._lock.acquire(self._database)
        self._database.connect(reuse_if_open=True)

    def _drop_connection(self) -> None:
        with suppress(*DATABASE_ERRORS):
            self._database.close()

    def _disconnect(self) -> None:
        # Released first: a server may take a while to notice that a connection is gone and its lock with it.
        if self._lock is not None:
            with suppress(*DATABASE_ERRORS):
                self._lock.release(self._database)
        self._drop_connection()
