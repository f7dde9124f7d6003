"""Responses: what was asked over the Responses API, beside the requests that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from peewee import Database, fn

from app.registry.fields import now
from app.registry.records import ResponseRecord
from app.registry.table import Row, Table
from app.registry.tables import InferenceRequest, Response


class Responses(Table[ResponseRecord]):
    """A response is kept as long as its request is: who forgets that one, forgets both."""

    model = Response
    noun = "response"
    order = ("created_at", "id")

    def begin(self, id: str, request_id: int, asked: Mapping[str, object]) -> Future[None]:
        """Keep a response whose request was begun before, without waiting for the disk; done when it is there."""
        values = {"id": id, "request": request_id, "asked": dict(asked), "created_at": now()}

        def work(database: Database) -> None:
            Response.insert(values).execute(database)

        return self._store.write_later(work, self.noun)

    def find(self, id: str) -> ResponseRecord | None:
        return self._store.read(lambda database: self._one(database, Response.id == id))

    def forget(self, id: str) -> None:
        """Remove a response, and the texts and token ids of its request, which stays as one whose text is not kept."""
        request = Response.select(Response.request).where(Response.id == id)
        nothing = {"prompt": "", "result": "", "prompt_token_ids": (), "token_ids": ()}

        def work(database: Database) -> None:
            InferenceRequest.update(nothing).where(InferenceRequest.id.in_(request)).execute(database)
            self._delete(database, Response.id == id)

        self._write(work)

    def _record(self, row: Row) -> ResponseRecord:
        return ResponseRecord(request_id=row.pop("request"), **row)


def length_of_asked() -> Any:
    """Within a query for requests: how long the response is that each of them answers; 0 without one."""
    asked = Response.select(fn.LENGTH(Response.asked)).where(Response.request == InferenceRequest.id).limit(1)
    return fn.COALESCE(asked, 0)
