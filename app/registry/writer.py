"""The one thread that writes. Every write is a transaction of its own, and its errors come back to who asked for it."""

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
        # A daemon, so that a program that forgets to close the registry can still end: what was committed is safe.
        self._thread = threading.Thread(target=self._run, name="registry-writer", daemon=True)
        self._thread.start()

    def write(self, work: Callable[[Database], T]) -> T:
        """Run `work` in a transaction and return what it returns, once that is on the disk.

        An exception of `work` rolls the transaction back and is raised here.
        """
        return self._submit(work, atomic=True)

    def run(self, work: Callable[[Database], T]) -> T:
        """Run `work` on the writing connection without a transaction, for what makes its own."""
        return self._submit(work, atomic=False)

    def close(self) -> None:
        """Finish what was asked for, close the connection and give back the lock."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _submit(self, work: Callable[[Database], T], *, atomic: bool) -> T:
        if threading.current_thread() is self._thread:
            raise RuntimeError("a write inside a write would wait for itself")
        done: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise RegistryError("The registry is closed.")
            self._jobs.put(_Job(work, atomic, done))
        return done.result()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._execute(job)
            # A caller's objects are not kept alive until the next write.
            del job
        self._disconnect()

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
