"""OpenAI's Responses API: answers that are kept, so that they may be read, followed and gone on from later."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response

from app.api.bodies import Nothing, body_of
from app.api.openai.responses.answers import DeletedResponse, InputItemList, ResponseObject
from app.api.openai.responses.bodies import ResponseBody
from app.api.openai.responses.service import ResponseService
from app.api.security import Caller

if TYPE_CHECKING:
    from app.controller import Controller

Id = Annotated[str, Path(min_length=1, max_length=200)]
MOST_EVENTS = 2**53
_STREAM: dict[int | str, dict[str, object]] = {200: {"content": {"text/event-stream": {}}}}


def add_routes(routes: APIRouter, controller: Controller, check_model: Callable[[str], Awaitable[object]]) -> None:
    """The endpoints below `/v1/responses`.

    Args:
        check_model: raises ApiError for a model that is not there.
    """
    service = ResponseService(controller)

    @routes.post("/responses", response_model=ResponseObject, responses=_STREAM)
    async def create_response(request: Request, body: ResponseBody, origin: Caller) -> Response:
        """Answer an input. With `stream`, server-sent events; with `background`, at once, and the answer is read later.
        Parameters left out are as the model has them."""
        await check_model(body.model)
        return await service.create(request, body, origin)

    @routes.get("/responses/{response_id}", response_model=ResponseObject, responses=_STREAM)
    async def get_response(
        request: Request,
        response_id: Id,
        stream: bool = False,
        starting_after: Annotated[int | None, Query(ge=0, le=MOST_EVENTS)] = None,
        last_event_id: Annotated[int | None, Header(ge=0, le=MOST_EVENTS, alias="Last-Event-ID")] = None,
    ) -> Response:
        """A response as it is now. With `stream`, its events from the beginning, or behind number `starting_after` (or
        `Last-Event-ID`): the same as they were told first, also by a controller that was started again meanwhile."""
        if stream:
            after = last_event_id if starting_after is None else starting_after
            return await service.stream(request, response_id, -1 if after is None else after)
        response = await service.get(response_id)
        return Response(response.model_dump_json(exclude_unset=True), media_type="application/json")

    @routes.get("/responses/{response_id}/input_items")
    async def list_input_items(
        response_id: Id,
        order: Literal["asc", "desc"] = "desc",
        after: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> InputItemList:
        """What the model was given, the responses included that it was to go on from; the newest first."""
        return await service.input_items(response_id, order, after, limit)

    @routes.post("/responses/{response_id}/cancel", response_model=ResponseObject, openapi_extra=body_of(Nothing))
    async def cancel_response(response_id: Id) -> Response:
        """End a response; what was generated stays. One that is over already stays as it is."""
        response = await service.cancel(response_id)
        return Response(response.model_dump_json(exclude_unset=True), media_type="application/json")

    @routes.delete("/responses/{response_id}")
    async def delete_response(response_id: Id) -> DeletedResponse:
        """Forget a response and its texts; one that is under way is cancelled first."""
        return await service.delete(response_id)
