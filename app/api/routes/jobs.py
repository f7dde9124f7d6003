"""Background work of any kind: how far it is, cancel it, list what there was."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from starlette.responses import Response

from app.api.agents import check_retry
from app.api.bodies import Nothing, accepts, body_of, done
from app.api.failures import NotFound, Overloaded
from app.api.job_views import JobList, JobView
from app.api.security import Caller, Room
from app.api.state import Number, TheController
from app.api.views import ALWAYS, errors
from app.controller import Controller
from app.errors import RegistryError
from app.jobs.job import Work
from app.registry import JobRecord, JobStatus
from app.runs.trace import Origin

router = Room(prefix="/shard/api/jobs", tags=["jobs"], responses=errors(*ALWAYS))

MOST_JOBS = 32
"""Under way or waiting at a time, before HTTP begins no more."""


@router.get("/status/{job_id}/", summary="One job", responses=errors(404, 422))
async def status(controller: TheController, job_id: Number) -> JobView:
    """How far it is, or what came of it, whoever began it."""
    return await job_view(controller, job_id)


@router.post(
    "/cancel/{job_id}/", summary="Cancel a job",
    responses={200: {"model": JobView}, **errors(400, 404, 409, 415, 422, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def cancel(
    request: Request, controller: TheController, job_id: Number, body: Annotated[Nothing, Depends(accepts(Nothing))]
) -> Response:
    """End a job, whoever began it. What is half done is cleaned up before this answers."""
    await job_record(controller, job_id)
    return done(request, JobView.of(await controller.cancel_job(job_id), controller.jobs), "/")


@router.post(
    "/retry/{job_id}/", status_code=202, summary="Begin a job again",
    responses={202: {"model": JobView}, **errors(400, 404, 409, 415, 422, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def retry(
    request: Request,
    controller: TheController,
    origin: Caller,
    job_id: Number,
    body: Annotated[Nothing, Depends(accepts(Nothing))],
) -> Response:
    """Begins a job that failed or was cancelled, whoever began it, as a new one; a download goes on where it was."""
    await check_retry(controller, await job_record(controller, job_id))
    check_room(controller)
    again = await controller.retry_job(job_id, origin)
    return done(request, JobView.of(again, controller.jobs), "/", 202)


@router.get("/recent/", summary="The newest jobs", responses=errors(422))
async def recent(
    controller: TheController,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    status: JobStatus | None = None,
    kind: Annotated[str | None, Query(max_length=50)] = None,
) -> JobList:
    return JobList(jobs=await recent_jobs(controller, limit, offset, status, kind))


async def begin_job(controller: Controller, work: Work[object], origin: Origin) -> JobView:
    """Begin a job; it as it was written down. Raises Overloaded."""
    check_room(controller)
    job = await controller.jobs.submit(work, origin)
    assert job.record is not None
    return JobView.of(job.record, controller.jobs)


def check_room(controller: Controller) -> None:
    """Raises Overloaded when HTTP is to begin no more jobs."""
    if len(controller.jobs.under_way) >= MOST_JOBS:
        raise Overloaded(f"{MOST_JOBS} jobs are under way already.", "Wait for one to end, or cancel one.")


async def job_record(controller: Controller, id: int) -> JobRecord:
    """A job as the registry has it. Raises NotFound."""
    try:
        return await controller.jobs.record(id)
    except RegistryError as error:
        if error.__cause__ is not None:
            raise
        raise NotFound(error.message, error.advice) from None


async def job_view(controller: Controller, id: int, kind: str | None = None) -> JobView:
    """A job, live while it runs. Raises NotFound, also for one of another kind."""
    record = await job_record(controller, id)
    if kind is not None and record.kind != kind:
        raise NotFound(f"Job {id} is none of these.", f"See /shard/api/jobs/status/{id}/.")
    return JobView.of(record, controller.jobs)


async def recent_jobs(
    controller: Controller,
    limit: int,
    offset: int = 0,
    status: JobStatus | None = None,
    kind: str | None = None,
) -> list[JobView]:
    records = await controller.registry.call(
        lambda known: known.jobs.list(limit=limit, offset=offset, status=status, kind=kind)
    )
    return [JobView.of(record, controller.jobs) for record in records]
