"""Errors in the OpenAI API's form: `{"error": {"message", "type", "param", "code"}}` with the status that fits.

`ErrorRoute` turns whatever an endpoint raises into that form, a body that does not validate included.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app.api.errors import Problem, encodable
from app.errors import Cancelled, ModelError, NodeError, PlacementError, PromptTooLong, RequestError, ShardboardError
from app.inference.parameters import GenerationParameters

log = logging.getLogger(__name__)

RETRY_SECONDS = 5
"""When to come again after a node was away: an agent that was started again is back by then."""
NO_RETRY = {"x-should-retry": "false"}
"""The official client would otherwise send every request that failed with 5xx twice more, and have it computed anew."""

PASSING = frozenset({"refused", "timeout", "lost", "link", "link_lost", "unknown_stage", "position", "draining"})
"""Kinds of NodeError that go by: an agent is started again, a deployment is linked anew."""

_FIELD = re.compile(r"[a-z][a-z_]*")
_BRANCHES = {"str", "int", "float", "bool", "none", "dict", "list", "bytes"}
"""What pydantic puts into a location to say which alternative of a union it tried."""


class ErrorDetails(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """What every failure is answered with."""

    error: ErrorDetails


class ApiError(Exception):
    """A failure as the client is to see it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = encodable(message)
        param = None if param is None else encodable(param)
        super().__init__(message)
        self.status = status
        self.answer = ErrorAnswer(error=ErrorDetails(message=message, type=type, param=param, code=code))
        self.headers = dict(headers or {})

    def response(self) -> Response:
        return JSONResponse(self.answer.model_dump(), self.status, self.headers)

    def renamed(self, field: str, name: str) -> ApiError:
        """The same, where a client knows the field by another name."""
        told = self.answer.error
        message = told.message.replace(field, name)
        param = None if told.param is None else told.param.replace(field, name)
        return ApiError(self.status, message, type=told.type, param=param, code=told.code, headers=self.headers)


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """What the client asked for cannot be done."""
    return ApiError(400, message, param=param, code=code)


def unknown_model(name: str) -> ApiError:
    return ApiError(404, f"The model '{name}' does not exist.", param="model", code="model_not_found")


def failure(error: ShardboardError | None, message: str, *, computing: bool) -> ApiError:
    """A request that was not answered.

    Args:
        error: what it failed with, when that is known.
        message: the sentence of its record.
        computing: whether the agents had begun. Before, a retry costs nothing and may help; afterwards it is computed
            all over again.
    """
    headers = NO_RETRY if computing else {}
    match error:
        case PromptTooLong():
            return refused(message, code="context_length_exceeded")
        case RequestError():
            # A parameter's sentence begins with its name.
            first = message.split(maxsplit=1)[0]
            return refused(message, first if first in GenerationParameters.__struct_fields__ else None)
        case ModelError():
            return refused(message, "model")
        case PlacementError():
            return ApiError(503, message, type="server_error", code="no_deployment", headers=NO_RETRY)
        case NodeError():
            if error.kind not in PASSING:
                headers = NO_RETRY  # what is wrong stays so until somebody sees to it
            headers = headers or {"retry-after": str(RETRY_SECONDS)}
            status = 500 if computing or error.kind == "numbers" else 503
            return ApiError(status, message, type="server_error", code=f"node_{error.kind}", headers=headers)
        case Cancelled():
            return ApiError(503, message, type="server_error", code="cancelled", headers=NO_RETRY)
        case _:
            return ApiError(500, message, type="server_error", headers=NO_RETRY)


class ErrorRoute(APIRoute):
    """An endpoint whose failures have the OpenAI API's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except ApiError as error:
                return error.response()
            except RequestValidationError as error:
                return _invalid(error).response()
            except (RequestError, ModelError, PlacementError, NodeError) as error:
                return failure(error, str(error), computing=False).response()
            except ShardboardError as error:
                return Problem.of(error).response(request)
            except HTTPException as error:
                return _of_http(error).response()
            except RecursionError:
                return refused("The body is nested too deeply.").response()
            except Exception:  # a bug of ours: the client must still get an answer that it can read
                log.exception("%s %s failed", request.method, request.url.path)
                sentence = "The server failed. This is a bug; see its log."
                return ApiError(500, sentence, type="server_error", headers=NO_RETRY).response()

        return handle


def _invalid(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    # All ways in which it is none of the alternatives of one field: the one that got furthest tells most.
    alike = [each for each in error.errors() if each["loc"][:2] == first["loc"][:2]]
    problem = max(alike, key=lambda each: len(_place(each["loc"])))
    place = _place(problem["loc"])
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if problem["type"] == "json_invalid":
        return refused(f"The body is no valid JSON: {problem.get('ctx', {}).get('error', problem['msg'])}.")
    sentence = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    if problem["type"] == "missing" and param:
        return refused(f"{param} is missing.", param, "missing_required_parameter")
    return refused(f"{param or 'The body'}: {sentence}.", param or None)


def _place(location: Sequence[Any]) -> list[Any]:
    return [part for part in location[1:] if not _names_a_branch(part)]


def _names_a_branch(part: object) -> bool:
    return isinstance(part, str) and (part in _BRANCHES or _FIELD.fullmatch(part) is None)


def _of_http(error: HTTPException) -> ApiError:
    detail = error.detail if isinstance(error.detail, str) else "The request was refused."
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    code = {401: "invalid_api_key", 403: "forbidden", 503: "unavailable"}.get(error.status_code)
    return ApiError(error.status_code, detail, type=kind, code=code, headers=error.headers)
