"""The library: which models there are, add one in the background, remove one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi import Path as PathParameter
from starlette.responses import Response

from app.api.bodies import AddModel, Nothing, accepts, body_of, done
from app.api.failures import NotFound, Refused
from app.api.routes.jobs import begin_job
from app.api.security import Caller, is_local
from app.api.state import TheController
from app.api.views import ALWAYS, JobView, ModelList, ModelView, errors
from app.controller import Controller
from app.errors import BadInput, Conflict
from app.inference.model_defaults import ModelDefaults
from app.jobs.works import AddWork, DemoWork
from app.models.description import ModelDescription
from app.models.sources import HUB_ID, check_name, recognise
from app.registry import ModelRecord, Registry

router = APIRouter(prefix="/shard/api/models", tags=["models"], responses=errors(*ALWAYS))

DEMO = "demo"
PAGE = "/shard/models/"


@router.get("/status/", summary="All models")
async def status(controller: TheController) -> ModelList:
    """The models of the library."""
    return ModelList(models=await model_views(controller))


@router.post(
    "/add/", status_code=202, summary="Add a model",
    responses={202: {"model": JobView}, **errors(400, 409, 415, 422, 507)}, openapi_extra=body_of(AddModel),
)  # fmt: skip
async def add(
    request: Request,
    controller: TheController,
    origin: Caller,
    body: Annotated[AddModel, Depends(accepts(AddModel))],
) -> Response:
    """Begins a job and returns it; see `/shard/api/jobs/status/ID/` for how far it is."""
    if body.source == DEMO:
        return done(request, await begin_job(controller, DemoWork(), origin), PAGE, 202)
    if not is_local(request) and (not HUB_ID.fullmatch(body.source) or _exists(body.source)):
        raise Refused(
            403,
            "Folders and files of the controller's machine can be added from that machine only.",
            "Give a Hub id like org/name.",
            code="not_local",
        )
    await asyncio.to_thread(_check_source, body)
    taken = await asyncio.to_thread(controller.library.find, body.name) if body.name is not None else None
    if taken is not None:
        raise Conflict(f"There is a model named '{taken.name}' already.", "Remove it first, or give another name.")
    work = AddWork(body.source, body.name, body.revision, body.dequantize)
    return done(request, await begin_job(controller, work, origin), PAGE, 202)


@router.post(
    "/remove/{name}/", summary="Remove a model",
    responses={200: {"model": ModelView}, **errors(400, 404, 409, 415, 422, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def remove(
    request: Request,
    controller: TheController,
    name: Annotated[str, PathParameter(max_length=200)],
    body: Annotated[Nothing, Depends(accepts(Nothing))],
) -> Response:
    """Forget a model and delete what the library holds of it. A folder that it was added from stays."""
    records = await controller.registry.call(lambda known: known.models.list())
    record = next((one for one in records if one.name.casefold() == name.casefold()), None)
    if record is None:
        raise NotFound(f"There is no model named '{name}'.", "See /shard/api/models/status/.")
    try:
        await controller.remove_model(record.name)
    except BadInput as error:
        raise Conflict(error.message, error.advice) from None
    return done(request, ModelView.of(record), PAGE)


async def model_views(controller: Controller) -> list[ModelView]:
    def read(registry: Registry) -> list[ModelView]:
        known = {description.name: description for description in controller.library.list()}
        return [_view(record, known.get(record.name)) for record in registry.models.list()]

    return await controller.registry.call(read)


def _view(record: ModelRecord, description: ModelDescription | None) -> ModelView:
    if description is None:
        return ModelView.of(record)
    return ModelView.of(record, description.notes, ModelDefaults.shown(description.path))


def _check_source(body: AddModel) -> None:
    if body.name is not None:
        check_name(body.name)
    try:
        recognise(body.source, body.revision)
    except (OSError, RuntimeError) as error:  # a name that is too long, a user that is not there
        raise BadInput(f"'{body.source[:80]}' cannot be read: {error}.") from error


def _exists(source: str) -> bool:
    try:
        return Path(source).expanduser().exists()
    except (OSError, RuntimeError):
        return False
