"""Background work of any kind: how far it is, cancel it, list what there was."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from app.api.background import BackgroundJobs
from app.api.bodies import Nothing, accepts, body_of, done
from app.api.failures import NotFound
from app.api.state import Number, TheController, TheJobs
from app.api.views import ALWAYS, JobList, JobView, errors
from app.controller import Controller
from app.registry import JobStatus

router = APIRouter(prefix="/shard/api/jobs", tags=["jobs"], responses=errors(*ALWAYS))


@router.get("/status/{job_id}/", summary="One job", responses=errors(404, 422))
async def status(jobs: TheJobs, job_id: Number) -> JobView:
    """How far it is, or what came of it; also of jobs that were begun in the window."""
    return await job_view(jobs, job_id)


@router.post(
    "/cancel/{job_id}/", summary="Cancel a job",
    responses={200: {"model": JobView}, **errors(400, 404, 409, 415, 422, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def cancel(
    request: Request, jobs: TheJobs, job_id: Number, body: Annotated[Nothing, Depends(accepts(Nothing))]
) -> Response:
    """End a job that was begun over HTTP. What is half done is cleaned up before this answers."""
    return done(request, JobView.of(await jobs.cancel(job_id)), "/")


@router.get("/recent/", summary="The newest jobs", responses=errors(422))
async def recent(
    controller: TheController,
    jobs: TheJobs,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    status: JobStatus | None = None,
    kind: Annotated[str | None, Query(max_length=50)] = None,
) -> JobList:
    return JobList(jobs=await recent_jobs(controller, jobs, limit, offset, status, kind))


async def job_view(jobs: BackgroundJobs, id: int, kind: str | None = None) -> JobView:
    """A job, live while it runs. Raises NotFound, also for one of another kind."""
    record, job = await jobs.record(id), jobs.find(id)
    if kind is not None and record.kind != kind:
        raise NotFound(f"Job {id} is none of these.", f"See /shard/api/jobs/status/{id}/.")
    return JobView.of(record, job)


async def recent_jobs(
    controller: Controller,
    jobs: BackgroundJobs,
    limit: int,
    offset: int = 0,
    status: JobStatus | None = None,
    kind: str | None = None,
) -> list[JobView]:
    records = await controller.registry.call(
        lambda known: known.jobs.list(limit=limit, offset=offset, status=status, kind=kind)
    )
    return [JobView.of(record, jobs.find(record.id)) for record in records]
