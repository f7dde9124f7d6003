"""The two ways into the database: reads in the caller's thread, writes through the one writer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from peewee import Database

from app.registry.failures import explained
from app.registry.location import Location
from app.registry.lock import ControllerLock
from app.registry.readers import Readers
from app.registry.writer import Writer

T = TypeVar("T")


class Store:
    """An open database. Errors of the database come out of it as ShardboardErrors."""

    def __init__(self, location: Location, lock: ControllerLock | None) -> None:
        self.location = location
        self.readers = Readers(location.reader())
        self._writer = Writer(location.writer(), location.begin, lock)
        self._listeners: list[Callable[[str], None]] = []

    def read(self, work: Callable[[Database], T]) -> T:
        with explained(self.location):
            return self.readers.read(work)

    def write(self, work: Callable[[Database], T]) -> T:
        with explained(self.location):
            return self._writer.write(work)

    def write_later(self, work: Callable[[Database], T], tell: str) -> Future[T]:
        """Begin a write and return at once; `tell` is what has changed when it is on the disk."""
        written = self._writer.write_later(work)
        done: Future[T] = Future()

        def end(result: Future[T]) -> None:
            try:
                with explained(self.location):
                    value = result.result()
            except BaseException as error:
                done.set_exception(error)
            else:
                self.tell_changed(tell)
                done.set_result(value)

        written.add_done_callback(end)
        return done

    def run(self, work: Callable[[Database], T]) -> T:
        """Run on the writing connection without a transaction, for migrations, which begin their own."""
        with explained(self.location):
            return self._writer.run(work)

    def on_changed(self, listener: Callable[[str], None]) -> None:
        self._listeners.append(listener)

    def tell_changed(self, noun: str) -> None:
        for listener in self._listeners:
            listener(noun)

    def close(self) -> None:
        self.readers.close()
        self._writer.close()
