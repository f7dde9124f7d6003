"""What happened, in order; old events can be pruned."""

from __future__ import annotations

from datetime import datetime

from peewee import Database, Expression

from app.registry.fields import now
from app.registry.records import EventLevel, EventRecord
from app.registry.table import Row, Table, matching
from app.registry.tables import Event

_PRUNED_AT_ONCE = 5_000


class Events(Table[EventRecord]):
    model = Event
    noun = "event"
    order = ("-at", "-id")

    def add(
        self,
        level: EventLevel,
        source: str,
        message: str,
        *,
        node_id: int | None = None,
        deployment_id: str | None = None,
        request_id: int | None = None,
        details: dict[str, object] | None = None,
        at: datetime | None = None,
    ) -> EventRecord:
        """Add an event. `source` is the part that reports it, such as "health"; `details` must be JSON's."""
        return self._add(
            {
                "at": at or now(),
                "level": level,
                "source": source,
                "node_id": node_id,
                "deployment_id": deployment_id,
                "request_id": request_id,
                "message": message,
                "details": details or {},
            }
        )

    def list(
        self,
        *,
        offset: int = 0,
        limit: int = 100,
        level: EventLevel | None = None,
        node_id: int | None = None,
        deployment_id: str | None = None,
        request_id: int | None = None,
    ) -> list[EventRecord]:
        """A page of events, newest first."""
        return self._list(*_filter(level, node_id, deployment_id, request_id), offset=offset, limit=limit)

    def count(
        self,
        *,
        level: EventLevel | None = None,
        node_id: int | None = None,
        deployment_id: str | None = None,
        request_id: int | None = None,
    ) -> int:
        return self._count(*_filter(level, node_id, deployment_id, request_id))

    def prune(self, *, before: datetime | None = None, keep: int | None = None) -> int:
        """Remove events older than a time, and all but the newest `keep`; returns how many.

        In small transactions, so that other writes get their turn meanwhile.
        """
        removed = 0
        if before is not None:
            removed += self._prune(Event.at < before)
        if keep is not None and (oldest := self._list(offset=keep, limit=1)):
            last = oldest[0]
            removed += self._prune((Event.at < last.at) | ((Event.at == last.at) & (Event.id <= last.id)))
        return removed

    def _prune(self, old: Expression) -> int:
        def work(database: Database) -> int:
            some = Event.select(Event.id).where(old).limit(_PRUNED_AT_ONCE)
            return self._delete(database, Event.id.in_(some))

        removed = 0
        while count := self._write(work):
            removed += count
        return removed

    def _record(self, row: Row) -> EventRecord:
        return EventRecord(**{**row, "level": EventLevel(row["level"])})


def _filter(
    level: EventLevel | None, node_id: int | None, deployment_id: str | None, request_id: int | None
) -> tuple[Expression | None, ...]:
    return (
        matching(Event.level, level),
        matching(Event.node_id, node_id),
        matching(Event.deployment_id, deployment_id),
        matching(Event.request_id, request_id),
    )
