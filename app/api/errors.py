"""Errors as the API tells them: one JSON shape, or a page, never a stack trace.

`{"error": {"message": …, "advice": …, "type": …, "code": …}}`; below `/v1` in the shape that clients of OpenAI's API
expect.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api.failures import NotFound, Overloaded, Refused
from app.api.rendering import error_page, wants_page
from app.errors import (
    BadInput,
    Cancelled,
    Conflict,
    DiskFullError,
    ModelError,
    NodeError,
    PlacementError,
    RegistryError,
    RequestError,
    ShardboardError,
)

log = logging.getLogger(__name__)

OPENAI_PATHS = "/v1/"


_STATUSES: tuple[tuple[type[ShardboardError], int], ...] = (
    (NotFound, 404),
    (Conflict, 409),
    (Overloaded, 503),
    (BadInput, 400),
    (RequestError, 400),
    (ModelError, 404),
    (PlacementError, 409),
    (Cancelled, 409),
    (DiskFullError, 507),
)
NEEDS_ROOM = 507
_NODE_STATUSES = {"memory": NEEDS_ROOM, "disk": NEEDS_ROOM, "numbers": 500}
"""By the kind of a NodeError. All others are 503: they pass when the node is there again, or somebody sees to it."""
ADVICE_BY_STATUS = {404: "The paths are listed at /docs.", 405: "The paths and their methods are listed at /docs."}


@dataclass(frozen=True)
class Problem:
    """An error on its way out. `type` is the family, `code` the case in it."""

    status: int
    message: str
    advice: str = ""
    type: str = "error"
    code: str = "error"
    headers: Mapping[str, str] | None = None

    @classmethod
    def of(cls, error: ShardboardError) -> Problem:
        return cls(
            status_of(error), error.message, error.advice, type(error).kind,
            error.code if isinstance(error, Refused) else error.kind,
            _headers(error),
        )  # fmt: skip

    def response(self, request: Request) -> Response:
        """As a page for who asked for one, else as JSON."""
        if (told := encodable(self.message)) != self.message:
            return replace(self, message=told).response(request)
        if request.url.path.startswith(OPENAI_PATHS):
            return JSONResponse(self._for_openai(), self.status, self.headers)
        if wants_page(request):
            return error_page(request, self.status, self.message, self.advice, self.headers)
        body = {"message": self.message, "advice": self.advice, "type": self.type, "code": self.code}
        return JSONResponse({"error": body}, self.status, self.headers)

    def _for_openai(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        code = "invalid_api_key" if self.status == 401 else self.code
        text = f"{self.message} {self.advice}".rstrip()
        return {"error": {"message": text, "type": kind, "param": None, "code": code}}


def encodable(text: str) -> str:
    """The text as it can be sent: half a character, which JSON can name ("\\ud800"), is spelt."""
    return text.encode("utf-8", "backslashreplace").decode()


def status_of(error: ShardboardError) -> int:
    """The HTTP status for an error."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, NodeError):
        return _NODE_STATUSES.get(error.kind, 503)
    if isinstance(error, RegistryError):
        # What the database itself reports has a cause; all else is something that the registry does not hold.
        return 503 if error.__cause__ is not None else 404
    return next((status for family, status in _STATUSES if isinstance(error, family)), 500)


def install(application: FastAPI) -> None:
    """Have an application answer errors in our shape. What nobody foresaw is answered by the gate."""
    application.add_exception_handler(ShardboardError, _on_ours)
    application.add_exception_handler(RequestValidationError, _on_invalid)
    application.add_exception_handler(HTTPException, _on_http)


def in_words(faults: Sequence[Mapping[str, Any]]) -> str:
    """What a validation found, as a sentence."""
    first = faults[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    rest = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{place or 'The request'}: {first['msg']}{rest}."


async def _on_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShardboardError)
    return Problem.of(error).response(request)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    message = in_words(error.errors())
    return Problem(422, message, "See /docs for what is allowed.", "bad_input", "invalid").response(request)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    advice = ADVICE_BY_STATUS.get(error.status_code, "")
    message = f"{str(error.detail).rstrip('.')}: {request.method} {request.url.path}"
    return Problem(error.status_code, message, advice, "http", str(error.status_code), error.headers).response(request)


async def on_bug(request: Request, error: Exception) -> Response:
    """Something that nobody foresaw: the log has all of it, the client only that it happened."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    message = "The server failed at this. That is a fault of Shardboard's."
    return Problem(500, message, "The controller's log says more.", "internal", "internal").response(request)


def _headers(error: ShardboardError) -> Mapping[str, str] | None:
    if isinstance(error, Overloaded):
        return {"Retry-After": "5"}
    if isinstance(error, Refused) and error.status == 401:
        return {"WWW-Authenticate": "Bearer"}
    return None
