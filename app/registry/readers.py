"""A connection for every thread that reads, closed when the thread ends."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import peewee
from peewee import Database

from app.errors import RegistryError
from app.registry.failures import DATABASE_ERRORS

T = TypeVar("T")


class _ThreadConnection:
    """A raw connection that is closed when this object goes: thread-local objects go when their thread ends."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.close = weakref.finalize(self, _close, raw)


def _close(raw: Any) -> None:
    with suppress(*DATABASE_ERRORS):
        raw.close()


class Readers:
    """Runs reads in the threads that ask for them. `database` must give connections that cannot write."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._local = threading.local()
        self._open: weakref.WeakSet[_ThreadConnection] = weakref.WeakSet()
        self._idle = threading.Condition()
        self._reading = 0
        self._closed = False

    def read(self, work: Callable[[Database], T]) -> T:
        """What `work` returns, given the database with this thread's connection open."""
        with self._counted():
            self._connect()
            try:
                return work(self._database)
            except peewee.OperationalError:
                if self._database.is_connection_usable():
                    raise
                # A server that was restarted: reading once more on a new connection does no harm.
                self._disconnect()
                self._connect()
                return work(self._database)

    def close(self) -> None:
        """Wait for the reads under way, then close all connections."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: self._reading == 0)
        for connection in list(self._open):
            connection.close()

    def count(self) -> int:
        """How many connections are open."""
        return sum(connection.close.alive for connection in list(self._open))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._idle:
            if self._closed:
                raise RegistryError("The registry is closed.")
            self._reading += 1
        try:
            yield
        finally:
            with self._idle:
                self._reading -= 1
                self._idle.notify_all()

    def _connect(self) -> None:
        if self._database.connect(reuse_if_open=True):
            connection = _ThreadConnection(self._database.connection())  # type: ignore[no-untyped-call]
            self._local.connection = connection
            with self._idle:
                self._open.add(connection)

    def _disconnect(self) -> None:
        with suppress(*DATABASE_ERRORS):
            self._database.close()
        self._local.connection = None
