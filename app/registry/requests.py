"""Prompts and what came of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TypedDict, Unpack

from peewee import Database, Expression, fn

from app.errors import RegistryError
from app.registry.conditions import among, among_many, matching, numbered, saying, within
from app.registry.fields import now
from app.registry.records import RequestLine, RequestRecord, RequestStatus
from app.registry.table import Row, Table
from app.registry.tables import InferenceRequest

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

    def add(
        self,
        *,
        model_name: str,
        prompt: str,
        parameters: dict[str, object] | None = None,
        deployment_id: str | None = None,
        prompt_token_ids: Sequence[int] = (),
    ) -> RequestRecord:
        """Add a pending request."""
        return self._add(
            {
                "model_name": model_name,
                "deployment_id": deployment_id,
                "prompt": prompt,
                "result": "",
                "status": RequestStatus.PENDING,
                "parameters": parameters or {},
                "prompt_token_ids": prompt_token_ids,
                "token_ids": (),
                "prompt_tokens": len(prompt_token_ids),
                "completion_tokens": 0,
                "timings": {},
            }
        )

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

        def work(database: Database) -> RequestRecord:
            before = self._by_id(database, id)
            status = RequestStatus(changes.get("status", before.status))
            if before.status.is_over and status != before.status:
                raise RegistryError(f"Request {id} is {before.status} already and cannot become {status}.")
            times: dict[str, object] = {}
            if status is RequestStatus.PROCESSING and before.started_at is None:
                times["started_at"] = now()
            if status.is_over and before.completed_at is None:
                times["completed_at"] = now()
            return self._change(database, id, {**changes, **times})

        return self._write(work)

    def remove(self, id: int) -> RequestRecord:
        return self._remove(id)

    def prune(self, before: datetime) -> int:
        """Remove requests that were over before a time; returns how many. Other writes get their turn meanwhile."""
        old = InferenceRequest.status.in_(_OVER) & (InferenceRequest.created_at < before)
        removed = 0
        while count := self._write(lambda database: self._prune_some(database, old)):
            removed += count
        return removed

    def fail_interrupted(self, reason: str) -> int:
        """Mark the requests that were under way when the program died as failed; what they generated stays."""
        query = InferenceRequest.update(
            {
                InferenceRequest.status: RequestStatus.FAILED,
                InferenceRequest.error: reason,
                InferenceRequest.finish_reason: "error",
                InferenceRequest.completed_at: now(),
            }
        ).where(InferenceRequest.status.in_(_UNDER_WAY))
        return int(self._write(lambda database: query.execute(database)))

    def _prune_some(self, database: Database, old: Expression) -> int:
        some = InferenceRequest.select(InferenceRequest.id).where(old).limit(_PRUNED_AT_ONCE)
        return self._delete(database, InferenceRequest.id.in_(some))

    def _record(self, row: Row) -> RequestRecord:
        return RequestRecord(**{**row, "status": RequestStatus(row["status"])})


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
