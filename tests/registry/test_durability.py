"""What was committed is kept, whenever the process is killed; what was not leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from peewee import Database, SqliteDatabase

from app.errors import DiskFullError
from app.registry import EventLevel, Registry

from .conftest import Child

WRITING = """
import sys, threading
from app.registry import EventLevel, Registry
registry = Registry.open(sys.argv[1])
said = threading.Lock()
def write(thread):
    number = 0
    while True:
        event = registry.events.add(EventLevel.INFO, f"thread {thread}", "x" * 2000, request_id=number)
        with said:
            print(event.id, flush=True)
        number += 1
for thread in range(3):
    threading.Thread(target=write, args=(thread,), daemon=True).start()
threading.Event().wait()
"""

IN_A_TRANSACTION = """
import sys, time
from app.registry.location import locate
from app.registry.store import Store
from app.registry.tables import Event
from app.registry.fields import now
def work(database):
    for number in range(2000):
        values = dict(at=now(), level="info", source="torn", message="x" * 5000, details={})
        Event.insert(values).execute(database)
    print("half way", flush=True)
    time.sleep(60)
Store(locate(sys.argv[1]), None).write(work)
"""


def test_a_process_killed_among_writes_loses_nothing_committed(file: Path, child: Child) -> None:
    reported: set[int] = set()
    for _ in range(3):
        writing = child.start(WRITING, file)
        reported |= {int(child.line(writing)) for _ in range(40)}
        reported |= {int(line) for line in child.kill(writing) if line}
        with Registry.open(file) as registry:
            kept = registry.events.list(limit=100_000)
        assert reported <= {event.id for event in kept}
        assert all(event.message == "x" * 2000 for event in kept)
        # Of each thread, at most the last write was committed and not reported.
        assert len(kept) - len(reported) <= 3 * 3


def test_a_transaction_cut_short_leaves_no_trace(file: Path, child: Child) -> None:
    Registry.open(file).close()
    torn = child.start(IN_A_TRANSACTION, file)
    assert child.line(torn) == "half way"
    child.kill(torn)
    with Registry.open(file) as registry:
        assert registry.events.count() == 0
        assert registry.models.list() == []


def test_a_full_disk_is_told_as_such_and_leaves_the_registry_as_it_was(file: Path) -> None:
    with Registry.open(file) as registry:
        registry.events.add(EventLevel.INFO, "test", "before")
        registry._store.run(lambda database: set_limit(database, spare=2))
        with pytest.raises(DiskFullError, match="No space is left for the registry"):
            registry.events.add(EventLevel.INFO, "test", "x" * 100_000)
        assert [event.message for event in registry.events.list()] == ["before"]
        registry._store.run(lambda database: set_limit(database, spare=1000))
        registry.events.add(EventLevel.INFO, "test", "x" * 100_000)
        assert registry.events.count() == 2


def set_limit(database: Database, spare: int) -> None:
    """Let the database grow by so many pages and no more, as a full disk would."""
    assert isinstance(database, SqliteDatabase)
    database.pragma("max_page_count", database.pragma("page_count") + spare)
