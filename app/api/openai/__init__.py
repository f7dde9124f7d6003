"""OpenAI's API over the controller: any of its clients talks to a model that is split over agents."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.responses import Response

from app.api.openai.answers import ChatCompletion, Completion, Model, ModelList
from app.api.openai.bodies import ChatBody, CompletionBody
from app.api.openai.chat import chat
from app.api.openai.completions import complete
from app.api.openai.errors import ErrorAnswer, ErrorRoute, unknown_model
from app.api.openai.responses import add_routes as add_responses
from app.api.security import Caller, Room
from app.api.views import errors
from app.inference.model_defaults import ModelDefaults
from app.models.description import ModelDescription

if TYPE_CHECKING:
    from app.controller import Controller
    from app.registry import Registry

_FAILURES: dict[int | str, dict[str, object]] = {
    **{
        status: {"model": ErrorAnswer, "description": said["description"]}
        for status, said in errors(401, 403, 408, 413, 421).items()
    },
    400: {"model": ErrorAnswer, "description": "The request cannot be honoured; `param` names what is wrong."},
    404: {"model": ErrorAnswer, "description": "There is no such model, or no such response."},
    422: {"model": ErrorAnswer, "description": "Not used: a body that does not validate is answered with 400."},
    500: {"model": ErrorAnswer, "description": "It failed after the agents had begun; it is not to be retried."},
    503: {"model": ErrorAnswer, "description": "Nothing can answer at the moment."},
}

_STREAM: dict[int | str, dict[str, object]] = {200: {"content": {"text/event-stream": {}}}}


def router(controller: Controller) -> Room:
    """The endpoints below `/v1`."""
    routes = Room(prefix="/v1", tags=["OpenAI"], route_class=ErrorRoute, responses=_FAILURES)

    @routes.get("/models")
    async def list_models() -> ModelList:
        """All models of the library. One that is not deployed is loaded on one node when it is asked."""
        described = await asyncio.to_thread(controller.library.list)
        data = await controller.registry.call(lambda known: [_model(known, each) for each in described])
        return ModelList(object="list", data=data)

    @routes.get("/models/{name:path}")
    async def get_model(name: str) -> Model:
        described = await _described(controller, name)
        return await controller.registry.call(lambda known: _model(known, described))

    @routes.post("/completions", response_model=Completion, responses=_STREAM)
    async def create_completion(request: Request, body: CompletionBody, origin: Caller) -> Response:
        """Go on from a prompt. With `stream`, server-sent events. Parameters left out are as the model has them."""
        await _described(controller, body.model)
        return await complete(controller, request, body, origin)

    @routes.post("/chat/completions", response_model=ChatCompletion, responses=_STREAM)
    async def create_chat_completion(request: Request, body: ChatBody, origin: Caller) -> Response:
        """Answer a conversation. With `stream`, server-sent events. Parameters left out are as the model has them."""
        await _described(controller, body.model)
        return await chat(controller, request, body, origin)

    add_responses(routes, controller, partial(_described, controller))
    return routes


async def _described(controller: Controller, name: str) -> ModelDescription:
    """Raises ApiError when there is no such model, ModelError when it is damaged."""
    described = await asyncio.to_thread(controller.library.find, name)
    if described is None:
        raise unknown_model(name)
    return described


def _model(registry: Registry, described: ModelDescription) -> Model:
    record = registry.models.find(described.name)
    defaults = ModelDefaults.shown(described.path)
    return Model(
        id=described.name,
        object="model",
        created=0 if record is None else int(record.created_at.timestamp()),
        owned_by="shardboard",
        max_model_len=described.max_context,
        default_parameters=defaults.values,
        warnings=list(defaults.notes),
    )
