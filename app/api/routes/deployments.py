"""Deployments: which there are, where a model would go, load one in the background, unload one."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from starlette.responses import Response

from app.api.bodies import Deploy, Nothing, accepts, body_of, done
from app.api.failures import NotFound
from app.api.job_views import JobView
from app.api.routes.jobs import begin_job
from app.api.security import Caller, Room
from app.api.state import TheController, deployment_views
from app.api.views import ALWAYS, DeploymentList, DeploymentView, PlanView, errors
from app.controller import Controller
from app.errors import Conflict, NodeError
from app.jobs.works import DeployWork, HandOverWork
from app.registry import DeploymentStatus
from app.sharding.placement import Placement

router = Room(prefix="/shard/api/deployments", tags=["deployments"], responses=errors(*ALWAYS))

PAGE = "/shard/models/"


@router.get("/status/", summary="Deployments", responses=errors(422))
async def status(
    controller: TheController,
    every: Annotated[bool, Query(alias="all", description="also those that failed or were unloaded")] = False,
) -> DeploymentList:
    """Newest first."""
    return DeploymentList(deployments=await deployment_views(controller, every=every))


@router.post(
    "/plan/", summary="Where a model would go", responses={200: {"model": PlanView}, **errors(400, 404, 409, 415, 422)},
    openapi_extra=body_of(Deploy),
)  # fmt: skip
async def plan(
    request: Request, controller: TheController, body: Annotated[Deploy, Depends(accepts(Deploy))]
) -> Response:
    """With the memory that it takes there, and why each node takes what it takes. Nothing is loaded."""
    return done(request, PlanView.of(await _place(controller, body)), PAGE)


@router.post(
    "/deploy/", status_code=202, summary="Deploy a model",
    responses={202: {"model": JobView}, **errors(400, 404, 409, 415, 422, 507)}, openapi_extra=body_of(Deploy),
)  # fmt: skip
async def deploy(
    request: Request,
    controller: TheController,
    origin: Caller,
    body: Annotated[Deploy, Depends(accepts(Deploy))],
) -> Response:
    """Finds a place for the model, then begins a job that loads it, and returns the job. With `live` the job moves
    what is deployed, with `replica` it loads that once more.

    When it is done, its details have the deployment's id.
    """
    placement = await _place(controller, body)
    work = HandOverWork(placement) if body.live else DeployWork(placement)
    return done(request, await begin_job(controller, work, origin), PAGE, 202)


@router.post(
    "/undeploy/{deployment_id}/", summary="Unload a deployment",
    responses={200: {"model": DeploymentView}, **errors(400, 404, 409, 415, 422, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def undeploy(
    request: Request,
    controller: TheController,
    deployment_id: Annotated[str, Path(max_length=100)],
    body: Annotated[Nothing, Depends(accepts(Nothing))],
) -> Response:
    """Its requests fail, its nodes free what it holds."""
    view = next((one for one in await deployment_views(controller, every=True) if one.id == deployment_id), None)
    if view is None:
        raise NotFound(f"There is no deployment '{deployment_id}'.", "See /shard/api/deployments/status/.")
    if view.status != DeploymentStatus.READY:
        raise Conflict(f"Deployment {view.id} of {view.model} is {view.status}, so there is nothing to unload.")
    record = (await controller.undeploy(view.id))[0]
    view.status, view.error = record.status, record.error
    return done(request, view, PAGE)


async def _place(controller: Controller, body: Deploy) -> Placement:
    await asyncio.to_thread(controller.library.get, body.model)
    await controller.registry.call(lambda known: [known.nodes.get(node) for node in body.nodes or ()])
    try:
        return await controller.plan(
            body.model, nodes=body.nodes, layers=body.layers, serving=body.serving, live=body.live,
            replica=body.replica, aim=body.aim,
        )  # fmt: skip
    except NodeError as error:
        raise Conflict(error.message, error.advice) from error
