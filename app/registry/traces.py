"""Traces of runs: bytes by what they are of. What is in them is `app.runs.trace`'s affair."""

from __future__ import annotations

from datetime import datetime

from peewee import Database, fn

from app.registry.fields import now
from app.registry.store import Store
from app.registry.tables import Trace

_PRUNED_AT_ONCE = 500
_TRIAL = "trial"


class Traces:
    """One trace at most for each kind ("request", "deployment", "job") and subject (the id as text)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, kind: str, subject: str, data: bytes) -> None:
        """Keep a trace, in the place of an older one of the same subject."""
        self._store.write(lambda database: put(database, kind, subject, data))
        self._store.tell_changed("trace")

    def try_out(self) -> None:
        """Write a trace and take it away again, all the way to the disk. Raises what any other write would raise."""

        def work(database: Database) -> None:
            put(database, _TRIAL, _TRIAL, b"")
            Trace.delete().where(Trace.kind == _TRIAL).execute(database)

        self._store.write(work)

    def get(self, kind: str, subject: str) -> bytes | None:
        """The trace of a subject; None when none was kept, or it was pruned."""
        query = Trace.select(Trace.data).where(Trace.kind == kind, Trace.subject == subject)
        row = self._store.read(lambda database: query.tuples().execute(database))
        first = next(iter(row), None)
        return bytes(first[0]) if first is not None else None

    def count(self) -> int:
        query = Trace.select(Trace.id)
        return self._store.read(lambda database: int(query.count(database)))

    def total_bytes(self) -> int:
        """How much room the traces take."""
        query = Trace.select(fn.SUM(Trace.size))
        return self._store.read(lambda database: int(query.scalar(database) or 0))

    def remove(self, kind: str, subject: str) -> bool:
        """Forget one; whether there was one."""
        query = Trace.delete().where(Trace.kind == kind, Trace.subject == subject)
        return bool(self._store.write(lambda database: query.execute(database)))

    def prune(self, before: datetime) -> int:
        """Remove traces written before a time; returns how many. Other writes get their turn meanwhile."""
        some = Trace.select(Trace.id).where(Trace.created_at < before).limit(_PRUNED_AT_ONCE)
        query = Trace.delete().where(Trace.id.in_(some))
        removed = 0
        while count := self._store.write(lambda database: int(query.execute(database))):
            removed += count
        return removed

    def prune_to(self, most_bytes: int) -> int:
        """Remove the oldest traces until the rest take no more than this; returns how many."""

        def work(database: Database) -> int:
            too_much = int(Trace.select(fn.SUM(Trace.size)).scalar(database) or 0) - most_bytes
            going: list[int] = []
            oldest = Trace.select(Trace.id, Trace.size).order_by(Trace.created_at, Trace.id).limit(_PRUNED_AT_ONCE)
            for id, size in oldest.tuples().execute(database):
                if too_much <= 0:
                    break
                going.append(id)
                too_much -= size
            return int(Trace.delete().where(Trace.id.in_(going)).execute(database)) if going else 0

        removed = 0
        while count := self._store.write(work):
            removed += count
        return removed


def put(database: Database, kind: str, subject: str, data: bytes) -> None:
    """Within a write that is under way."""
    Trace.delete().where(Trace.kind == kind, Trace.subject == subject).execute(database)
    Trace.insert(kind=kind, subject=subject, size=len(data), data=data, created_at=now()).execute(database)
