"""Cutting models into shard folders, in the background."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated

from fastapi import Depends, Query, Request
from starlette.responses import Response

from app.api.bodies import CutModel, Nothing, accepts, body_of, done
from app.api.failures import Refused
from app.api.job_views import JobList, JobView
from app.api.routes.jobs import begin_job, job_view, recent_jobs
from app.api.security import Caller, Room, is_local
from app.api.state import Number, TheController
from app.api.views import ALWAYS, errors
from app.controller import Controller
from app.errors import BadInput
from app.jobs.works import CutWork
from app.registry import JobStatus
from app.sharding.cut import choose_ranges
from app.sharding.plan import ranges_text

router = Room(prefix="/shard/api/sharding", tags=["sharding"], responses=errors(*ALWAYS))

KIND = "cut"
PAGE = "/shard/models/"


@router.post(
    "/submit/", status_code=202, summary="Cut a model",
    responses={202: {"model": JobView}, **errors(400, 404, 409, 415, 422, 507)}, openapi_extra=body_of(CutModel),
)  # fmt: skip
async def submit(
    request: Request,
    controller: TheController,
    origin: Caller,
    body: Annotated[CutModel, Depends(accepts(CutModel))],
) -> Response:
    """Begins a job and returns it at once. Jobs of this kind run one after another."""
    description = await asyncio.to_thread(controller.library.get, body.model)
    ranges = choose_ranges(description, body.num_shards, body.layers)  # before anything is begun
    folder = await asyncio.to_thread(_folder, request, controller, body.output_dir or description.name)
    work = CutWork(description.name, folder, layers=ranges_text(ranges), register=body.register_db)
    return done(request, await begin_job(controller, work, origin), PAGE, 202)


@router.get("/status/{job_id}/", summary="One sharding job", responses=errors(404, 422))
async def status(controller: TheController, job_id: Number) -> JobView:
    return await job_view(controller, job_id, KIND)


@router.post(
    "/cancel/{job_id}/", summary="Cancel a sharding job",
    responses={200: {"model": JobView}, **errors(400, 404, 409, 415, 422, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def cancel(
    request: Request, controller: TheController, job_id: Number, body: Annotated[Nothing, Depends(accepts(Nothing))]
) -> Response:
    """What was written so far is removed before this answers."""
    await job_view(controller, job_id, KIND)
    return done(request, JobView.of(await controller.cancel_job(job_id), controller.jobs), PAGE)


@router.get("/recent/", summary="The newest sharding jobs", responses=errors(422))
async def recent(
    controller: TheController,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    status: JobStatus | None = None,
) -> JobList:
    return JobList(jobs=await recent_jobs(controller, limit, offset, status, KIND))


def _folder(request: Request, controller: Controller, wanted: str) -> Path:
    """Where shards go: below the home's own folder, unless somebody on this machine says where."""
    if PurePosixPath(wanted).is_absolute() or PureWindowsPath(wanted).is_absolute() or wanted.startswith("~"):
        if not is_local(request):
            raise Refused(
                403,
                "Shards are written outside the controller's home for programs on its machine only.",
                "Give a folder's name; it is made below `shards` in the controller's home.",
                code="not_local",
            )
        return Path(wanted)
    root = (controller.home.root / "shards").resolve()
    try:
        folder = (root / wanted).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"'{wanted[:80]}' cannot be a folder's name: {error}.") from error
    if folder == root or not folder.is_relative_to(root):
        raise BadInput(f"'{wanted[:80]}' leads out of the folder for shards.", "Give a folder's name.")
    return folder
