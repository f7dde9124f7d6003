"""Many readers and one writer: nobody waits for the other, nobody sees half of a write, nothing is left open."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from peewee import Database

from app.errors import RegistryError
from app.registry import EventLevel, Registry
from app.registry.fields import now
from app.registry.location import locate
from app.registry.store import Store
from app.registry.tables import Event


def insert_event(database: Database, source: str) -> None:
    values = {"at": now(), "level": "info", "source": source, "message": "", "details": {}}
    Event.insert(values).execute(database)


def test_writes_of_many_threads_all_arrive(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as threads:
        events = list(threads.map(lambda n: registry.events.add(EventLevel.INFO, "test", str(n)), range(80)))
    assert len({event.id for event in events}) == 80
    assert sorted(int(event.message) for event in registry.events.list()) == list(range(80))


def test_what_was_written_is_seen_by_every_thread_at_once(registry: Registry) -> None:
    def write_and_read(number: int) -> bool:
        event = registry.events.add(EventLevel.INFO, "test", str(number), request_id=number)
        with ThreadPoolExecutor(1) as other:
            return other.submit(lambda: registry.events.list(request_id=number)).result() == [event]

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(write_and_read, range(20)))


@pytest.fixture
def store(location: str) -> Iterator[Store]:
    Registry.open(location).close()
    opened = Store(locate(location), None)
    yield opened
    opened.close()


def test_readers_see_all_of_a_transaction_or_nothing_and_never_wait_for_it(store: Store) -> None:
    half_way, go_on = threading.Event(), threading.Event()

    def work(database: Database) -> None:
        insert_event(database, "first")
        half_way.set()
        assert go_on.wait(20)
        insert_event(database, "second")

    def count(database: Database) -> int:
        return int(Event.select().count(database))

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(store.write, work)
        assert half_way.wait(20)
        # The writer stands in the middle of its transaction until this read is through.
        assert store.read(count) == 0
        go_on.set()
        writing.result(20)
    assert store.read(count) == 2


def test_a_failed_write_comes_back_to_its_caller_and_leaves_nothing(store: Store) -> None:
    def work(database: Database) -> None:
        insert_event(database, "lost")
        raise KeyError("our own mistake")

    with pytest.raises(KeyError, match="our own mistake"):
        store.write(work)
    store.write(lambda database: insert_event(database, "kept"))
    assert store.read(lambda database: [event.source for event in Event.select().execute(database)]) == ["kept"]


def test_a_reader_cannot_write(store: Store) -> None:
    with pytest.raises(RegistryError):
        store.read(lambda database: insert_event(database, "by the back door"))
    assert store.read(lambda database: Event.select().count(database)) == 0


def test_a_write_inside_a_write_is_a_mistake_and_no_deadlock(store: Store) -> None:
    def work(database: Database) -> None:
        store.write(lambda inner: insert_event(inner, "inner"))

    with pytest.raises(RuntimeError, match="inside a write"):
        store.write(work)


def test_two_processes_worth_of_writers_wait_for_each_other(file: Path) -> None:
    Registry.open(file).close()
    one, other = Store(locate(file), None), Store(locate(file), None)

    def read_then_write(database: Database) -> None:
        before = Event.select().count(database)
        time.sleep(0.002)
        insert_event(database, str(before))

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(store.write, read_then_write) for _ in range(20) for store in (one, other)]:
            done.result(30)
    # Each saw all that was written before it: none was lost, none was refused as busy.
    sources = one.read(lambda database: [event.source for event in Event.select().order_by(Event.id).execute(database)])
    assert sources == [str(number) for number in range(40)]
    one.close()
    other.close()


def test_the_connection_of_a_thread_is_closed_when_it_ends(file: Path) -> None:
    with Registry.open(file) as registry:
        registry.nodes.list()
        store = registry._store
        before = open_files(file)
        for _ in range(20):
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(lambda _: registry.nodes.list(), range(8)))
        gc.collect()
        assert store.readers.count() == 1
        # SQLite keeps a few closed files for the next connection, as POSIX would drop the locks of the others with
        # them; never more than were open at once.
        assert open_files(file) <= before + 2 * 4
    assert open_files(file) == 0


def open_files(file: Path) -> int:
    """How many times this process has the registry, its write-ahead log or its lock open."""
    return sum(Path(opened.path).name.startswith(file.name) for opened in psutil.Process().open_files())


def test_the_registry_closes_for_every_thread(registry: Registry) -> None:
    read, closed = threading.Event(), threading.Event()

    def work() -> str:
        registry.nodes.list()
        read.set()
        assert closed.wait(20)
        with pytest.raises(RegistryError, match="The registry is closed"):
            registry.nodes.list()
        with pytest.raises(RegistryError, match="The registry is closed"):
            registry.events.add(EventLevel.INFO, "test", "")
        return "refused"

    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(work)
        assert read.wait(20)
        registry.close()
        closed.set()
        assert result.result(20) == "refused"


def test_closing_waits_for_the_writes_under_way(location: str) -> None:
    registry = Registry.open(location)
    entered = threading.Event()

    def slow(database: Database) -> None:
        entered.set()
        time.sleep(0.3)
        insert_event(database, "slow")

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(registry._store.write, slow)
        assert entered.wait(20)
        registry.close()
        writing.result(20)
    with Registry.open(location) as again:
        assert [event.source for event in again.events.list()] == ["slow"]
