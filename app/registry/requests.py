"""Prompts and what came of them."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypedDict, Unpack

from peewee import Database, Expression, fn

from app.errors import RegistryError
from app.registry.conditions import among, among_many, matching, numbered, saying, within
from app.registry.fields import now
from app.registry.records import RequestLine, RequestRecord, RequestStatus
from app.registry.responses import length_of_asked
from app.registry.store import Store
from app.registry.table import Row, Table
from app.registry.tables import Event, InferenceRequest
from app.registry.traces import put

_UNDER_WAY = [status for status in RequestStatus if not status.is_over]
_OVER = [status for status in RequestStatus if status.is_over]

_PRUNED_AT_ONCE = 2_000

LINE_CHARACTERS = 240
"""So much of a prompt is in a RequestLine."""


class RequestChanges(TypedDict, total=False):
    """What `Requests.update` can change."""

    deployment_id: str | None
    result: str
    error: str | None
    status: RequestStatus
    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    timings: dict[str, float]


class RequestQuery(TypedDict, total=False):
    """What a listing of requests can be narrowed down to; all that is given must hold."""

    text: str | None
    """Part of the prompt, the answer or the error. Reads every row that the rest leaves over."""
    status: RequestStatus | Collection[RequestStatus] | None
    model_name: str | None
    deployment_id: str | None
    since: datetime | None
    until: datetime | None
    after_id: int | None
    last_id: int | None


class Requests(Table[RequestRecord]):
    model = InferenceRequest
    noun = "request"
    advice = "List what there is with: request list"
    order = ("-created_at", "-id")

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._ids = threading.Lock()
        self._last_id: int | None = None

    def add(
        self,
        *,
        model_name: str,
        prompt: str,
        parameters: dict[str, object] | None = None,
        deployment_id: str | None = None,
        prompt_token_ids: Sequence[int] = (),
        origin: dict[str, str] | None = None,
    ) -> RequestRecord:
        """Add a pending request and wait until it is on the disk."""
        record, written = self.begin(
            model_name=model_name, prompt=prompt, parameters=parameters, deployment_id=deployment_id,
            prompt_token_ids=prompt_token_ids, origin=origin,
        )  # fmt: skip
        written.result()
        return record

    def go_on_counting(self) -> None:
        """Find the highest number that was ever given out: what the one controller of a registry begins with."""
        self._last_id = self._store.read(_last_given)

    def begin(
        self,
        *,
        model_name: str,
        prompt: str,
        parameters: dict[str, object] | None = None,
        deployment_id: str | None = None,
        prompt_token_ids: Sequence[int] = (),
        origin: dict[str, str] | None = None,
        sequence: dict[str, object] | None = None,
    ) -> tuple[RequestRecord, Future[None]]:
        """Add a pending request without waiting for the disk: its record, and when it is written.

        The number is given out here, which only the one controller of a registry may do.

        Args:
            sequence: by what the next controller can go on with it, if this one ends without a word.
        """
        # Giving out a number and joining the queue are one step, so that rows come in the order of their numbers.
        with self._ids:
            if self._last_id is None:
                raise RegistryError("Only the controller of a registry can begin requests.")
            self._last_id += 1
            record = RequestRecord(
                id=self._last_id,
                model_name=model_name,
                deployment_id=deployment_id,
                prompt=prompt,
                result="",
                error=None,
                status=RequestStatus.PENDING,
                parameters=parameters or {},
                prompt_token_ids=tuple(prompt_token_ids),
                token_ids=(),
                finish_reason=None,
                prompt_tokens=len(prompt_token_ids),
                completion_tokens=0,
                timings={},
                created_at=now(),
                started_at=None,
                completed_at=None,
                origin=origin or {},
                sequence=sequence or {},
            )
            values = {name: getattr(record, name) for name in RequestRecord.__dataclass_fields__}
            return record, self._store.write_later(lambda database: _insert(database, values), self.noun)

    def save(self, record: RequestRecord, *, trace: bytes | None = None, keep_text: bool = True) -> Future[None]:
        """Write a record as it is now, without waiting for the disk. Only its one owner may do that.

        Args:
            trace: kept with it, in the same transaction.
            keep_text: False leaves out texts and token ids.
        """
        values = {name: getattr(record, name) for name in _KEPT_WHILE_RUNNING}
        if not keep_text:
            values |= {"prompt": "", "result": "", "prompt_token_ids": (), "token_ids": (), "sequence": {}}

        def work(database: Database) -> None:
            InferenceRequest.update(values).where(InferenceRequest.id == record.id).execute(database)
            if trace is not None:
                put(database, "request", str(record.id), trace)

        return self._store.write_later(work, self.noun)

    def get(self, id: int) -> RequestRecord:
        return self._get(id)

    def lines(self, *, offset: int = 0, limit: int = 100, **query: Unpack[RequestQuery]) -> list[RequestLine]:
        """A page as `list` gives it, without what is long: answers, tokens, all but the beginning of prompts."""
        page = self._page(*_filter(query), offset=offset, limit=limit)
        rows = (
            InferenceRequest.select(
                *_LINE_FIELDS, fn.SUBSTR(InferenceRequest.prompt, 1, LINE_CHARACTERS).alias("prompt")
            )
            .where(InferenceRequest.id.in_(page))
            .order_by(*self._order())
            .dicts()
        )
        return self._store.read(
            lambda database: [
                RequestLine(**{**row, "status": RequestStatus(row["status"])}) for row in rows.execute(database)
            ]
        )

    def list(self, *, offset: int = 0, limit: int = 100, **query: Unpack[RequestQuery]) -> list[RequestRecord]:
        """A page of requests, newest first.

        Pages are found by offset in an index that holds all that can be filtered except text: the last page of
        100,000 takes milliseconds. `last_id` keeps the pages where they are while requests come in.
        """
        return self._list(*_filter(query), offset=offset, limit=limit)

    def count(self, **query: Unpack[RequestQuery]) -> int:
        return self._count(*_filter(query))

    def position(self, id: int, **query: Unpack[RequestQuery]) -> int | None:
        """The row at which a listing has this request; None when it does not have it."""
        return self._position(id, *_filter(query))

    def models(self) -> tuple[str, ...]:
        """The names of all models that were ever asked."""
        query = InferenceRequest.select(InferenceRequest.model_name).distinct().order_by(InferenceRequest.model_name)
        return self._store.read(lambda database: tuple(row[0] for row in query.tuples().execute(database)))

    def update(self, id: int, **changes: Unpack[RequestChanges]) -> RequestRecord:
        """Change a request; the times it was started and completed follow from its status.

        Raises RegistryError when it is over already and would get another status: a late failure must not
        overwrite an answer.
        """
        return self._advance(id, changes, RequestStatus.PROCESSING)

    def remove(self, id: int) -> RequestRecord:
        return self._remove(id)

    def prune(self, before: datetime) -> int:
        """Remove requests that were over before a time; returns how many. Other writes get their turn meanwhile."""
        old = InferenceRequest.status.in_(_OVER) & (InferenceRequest.created_at < before)
        removed = 0
        while count := self._write(lambda database: self._prune_some(database, old)):
            removed += count
        return removed

    def total_bytes(self) -> int:
        """How much room texts and token ids take, and what responses asked, about: one byte for each character."""
        query = InferenceRequest.select(*(fn.SUM(length) for length in _lengths()))
        return self._store.read(
            lambda database: sum(int(value or 0) for value in next(iter(query.tuples().execute(database))))
        )

    def prune_to(self, most_bytes: int) -> int:
        """Remove the oldest requests that are over until the texts of the rest take no more than this; how many."""

        def work(database: Database) -> int:
            too_much = self.total_bytes() - most_bytes
            going: list[int] = []
            oldest = (
                InferenceRequest.select(InferenceRequest.id, sum(_lengths()[1:], _lengths()[0]))
                .where(InferenceRequest.status.in_(_OVER))
                .order_by(InferenceRequest.created_at, InferenceRequest.id)
                .limit(_PRUNED_AT_ONCE)
            )
            for id, length in oldest.tuples().execute(database):
                if too_much <= 0:
                    break
                going.append(id)
                too_much -= int(length or 0)
            return self._delete(database, InferenceRequest.id.in_(going)) if going else 0

        removed = 0
        while count := self._write(work):
            removed += count
        return removed

    def fail_interrupted(self, reason: str) -> int:
        """Mark what was under way when the program died and cannot be gone on with as failed; what came of it stays."""
        query = InferenceRequest.update(
            {
                InferenceRequest.status: RequestStatus.FAILED,
                InferenceRequest.error: reason,
                InferenceRequest.finish_reason: "error",
                InferenceRequest.completed_at: now(),
            }
        ).where(InferenceRequest.status.in_(_UNDER_WAY) & (InferenceRequest.sequence == {}))
        return int(self._write(lambda database: query.execute(database)))

    def under_way(self) -> tuple[RequestRecord, ...]:
        """Those that a controller left which ended without a word: the next one goes on with them. Oldest first."""
        return tuple(reversed(self._list(InferenceRequest.status.in_(_UNDER_WAY))))

    def _prune_some(self, database: Database, old: Expression) -> int:
        some = InferenceRequest.select(InferenceRequest.id).where(old).limit(_PRUNED_AT_ONCE)
        return self._delete(database, InferenceRequest.id.in_(some))

    def _record(self, row: Row) -> RequestRecord:
        return RequestRecord(**{**row, "status": RequestStatus(row["status"])})


_KEPT_WHILE_RUNNING = tuple(
    name
    for name in RequestRecord.__dataclass_fields__
    if name not in ("id", "model_name", "parameters", "created_at", "origin")
)


def _lengths() -> tuple[Any, ...]:
    """How long the texts of a request are, and what it answers."""
    fields = (
        InferenceRequest.prompt, InferenceRequest.result, InferenceRequest.prompt_token_ids, InferenceRequest.token_ids
    )  # fmt: skip
    return (*(fn.LENGTH(field) for field in fields), length_of_asked())


def _insert(database: Database, values: dict[str, object]) -> None:
    InferenceRequest.insert(values).execute(database)


def _last_given(database: Database) -> int:
    """The highest number that was ever given out, as far as that can be told: of a request, or of one in an event."""
    given = (InferenceRequest.select(fn.MAX(InferenceRequest.id)), Event.select(fn.MAX(Event.request_id)))
    return max(int(query.scalar(database) or 0) for query in given)


_LINE_FIELDS = [InferenceRequest._meta.fields[name] for name in RequestLine.__dataclass_fields__ if name != "prompt"]


def _filter(query: RequestQuery) -> tuple[Expression | None, ...]:
    status, model = query.get("status"), query.get("model_name")
    rare = status is not None and not isinstance(status, str) and set(status) <= set(_UNDER_WAY)
    alone = model is None and (status is None or isinstance(status, str) or len(status) == 1)
    by_index = rare or alone or status is None
    return (
        among(InferenceRequest.status, status) if by_index else among_many(InferenceRequest.status, status),
        among(InferenceRequest.model_name, model) if by_index else among_many(InferenceRequest.model_name, model),
        matching(InferenceRequest.deployment_id, query.get("deployment_id")),
        *within(InferenceRequest.created_at, query.get("since"), query.get("until")),
        *numbered(InferenceRequest.id, query.get("after_id"), query.get("last_id")),
        saying(query.get("text"), InferenceRequest.prompt, InferenceRequest.result, InferenceRequest.error),
    )
