"""What happened, in order; old events can be pruned."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TypedDict, Unpack

from peewee import Database, Expression

from app.registry.conditions import among, among_many, matching, numbered, saying, within
from app.registry.fields import now
from app.registry.records import EventLevel, EventRecord
from app.registry.table import Row, Table
from app.registry.tables import Event

_PRUNED_AT_ONCE = 5_000


class EventQuery(TypedDict, total=False):
    """What a listing of events can be narrowed down to; all that is given must hold."""

    text: str | None
    """Part of the message. Reads every row that the rest leaves over."""
    level: EventLevel | Collection[EventLevel] | None
    at_least: EventLevel | None
    """This level or a worse one."""
    source: str | None
    node_id: int | None
    deployment_id: str | None
    request_id: int | None
    since: datetime | None
    until: datetime | None
    after_id: int | None
    last_id: int | None
    of_run: tuple[Collection[int], str | None, int | None] | None
    """Of any of these nodes, of this deployment or of this request: what happened to a run."""


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

    def list(self, *, offset: int = 0, limit: int = 100, **query: Unpack[EventQuery]) -> list[EventRecord]:
        """A page of events, newest first.

        Pages are found by offset in an index that holds all that can be filtered except text. `last_id` keeps them
        where they are while events come in.
        """
        return self._list(*_filter(query), offset=offset, limit=limit)

    def count(self, **query: Unpack[EventQuery]) -> int:
        return self._count(*_filter(query))

    def position(self, id: int, **query: Unpack[EventQuery]) -> int | None:
        """The row at which a listing has this event; None when it does not have it."""
        return self._position(id, *_filter(query))

    def sources(self) -> tuple[str, ...]:
        """All parts that ever reported something."""
        query = Event.select(Event.source).distinct().order_by(Event.source)
        return self._store.read(lambda database: tuple(row[0] for row in query.tuples().execute(database)))

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


def _filter(query: EventQuery) -> tuple[Expression | None, ...]:
    at_least, of_run = query.get("at_least"), query.get("of_run")
    # Information is most of a log, warnings and errors are few.
    worse = among_many if at_least is EventLevel.INFO else among
    return (
        among(Event.level, query.get("level")),
        None if at_least in (None, EventLevel.DEBUG) else worse(Event.level, at_least.and_worse),
        matching(Event.source, query.get("source")),
        matching(Event.node_id, query.get("node_id")),
        matching(Event.deployment_id, query.get("deployment_id")),
        matching(Event.request_id, query.get("request_id")),
        *within(Event.at, query.get("since"), query.get("until")),
        *numbered(Event.id, query.get("after_id"), query.get("last_id")),
        saying(query.get("text"), Event.message),
        None if of_run is None else _of_run(*of_run),
    )


def _of_run(nodes: Collection[int], deployment: str | None, request: int | None) -> Expression:
    found: Expression = Event.node_id.in_(sorted(nodes))
    for concerns in (matching(Event.deployment_id, deployment), matching(Event.request_id, request)):
        if concerns is not None:
            found |= concerns
    return found
