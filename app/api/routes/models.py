"""The library: which models there are, add one or measure one in the background, remove one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi import Path as PathParameter
from starlette.responses import Response

from app.api.bodies import AddModel, MeasureModel, Nothing, accepts, body_of, done
from app.api.failures import NotFound, Refused
from app.api.job_views import JobView
from app.api.library_views import ModelList, ModelView
from app.api.routes.jobs import begin_job
from app.api.security import Caller, Room, is_local
from app.api.state import TheController
from app.api.views import ALWAYS, errors
from app.controller import Controller
from app.errors import BadInput, Conflict
from app.inference.model_defaults import ModelDefaults
from app.jobs.measuring import MeasureWork
from app.jobs.works import AddWork, DemoWork
from app.models.description import ModelDescription
from app.models.sources import HUB_ID, check_name, recognise
from app.registry import MeasurementRecord, ModelRecord, Registry
from app.runs.measured import newest_of_each

router = Room(prefix="/shard/api/models", tags=["models"], responses=errors(*ALWAYS))

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
    is_path = not HUB_ID.fullmatch(body.source) or await asyncio.to_thread(_exists, body.source)
    if not is_local(request) and is_path:
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


@router.post(
    "/measure/{name}/", status_code=202, summary="Measure a model",
    responses={202: {"model": JobView}, **errors(400, 404, 409, 415, 422, 507)}, openapi_extra=body_of(MeasureModel),
)  # fmt: skip
async def measure(
    request: Request,
    controller: TheController,
    origin: Caller,
    name: Annotated[str, PathParameter(max_length=200)],
    body: Annotated[MeasureModel, Depends(accepts(MeasureModel))],
) -> Response:
    """Begins a job that measures what the model's numbers cost, and returns it. The figures are then the model's."""
    await asyncio.to_thread(lambda: [controller.library.get(each) for each in (name, body.against) if each is not None])
    await asyncio.to_thread(controller.inference.tokenizer, name)
    await controller.registry.call(lambda known: [known.nodes.get(node) for node in body.nodes or ()])
    nodes = None if body.nodes is None else tuple(body.nodes)
    work = MeasureWork(name, body.serving, nodes, body.layers, body.against)
    return done(request, await begin_job(controller, work, origin), PAGE, 202)


async def model_views(controller: Controller) -> list[ModelView]:
    def read(registry: Registry) -> list[ModelView]:
        known = {description.name: description for description in controller.library.list()}
        measured: dict[int, list[MeasurementRecord]] = {}
        for measurement in registry.measurements.list():
            measured.setdefault(measurement.model_id, []).append(measurement)
        return [
            _view(record, known.get(record.name), newest_of_each(measured.get(record.id, ())))
            for record in registry.models.list()
        ]

    return await controller.registry.call(read)


def _view(
    record: ModelRecord, description: ModelDescription | None, measured: Sequence[MeasurementRecord]
) -> ModelView:
    if description is None:
        return ModelView.of(record, measured=measured)
    return ModelView.of(record, description.notes, ModelDefaults.shown(description.path), measured)


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
