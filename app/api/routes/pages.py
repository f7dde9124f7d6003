"""The pages: how it all is, ask a model, nodes, models and deployments, one run."""

from __future__ import annotations

import asyncio
import shlex
from typing import Annotated, Any

from fastapi import Path, Query, Request
from starlette.responses import Response

from app.api.rendering import page, wants_page
from app.api.routes.inference import recent_requests
from app.api.routes.jobs import job_view, recent_jobs
from app.api.routes.models import model_views
from app.api.routes.runs import Kind, live_run
from app.api.security import Room
from app.api.state import TheController, deployment_views, node_views
from app.api.views import ALWAYS, SystemView, errors
from app.registry import JobStatus
from app.runs.telling import tell
from worker_agent import __version__

router = Room(tags=["pages"], responses=errors(*ALWAYS))
HTML: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {}}, "description": "A page."}}

RECENT = 12
UNDER_WAY = 50


@router.get(
    "/", summary="How it all is",
    responses={200: {"model": SystemView, "content": {"text/html": {}}, "description": "JSON, or a page for browsers"}},
)  # fmt: skip
async def system(request: Request, controller: TheController) -> Response:
    """Nodes, deployments, background work and the newest requests; JSON unless HTML is asked for."""
    nodes, deployments, requests, busy = await asyncio.gather(
        node_views(controller),
        deployment_views(controller),
        recent_requests(controller, RECENT),
        recent_jobs(controller, UNDER_WAY),
    )
    view = SystemView(
        version=__version__,
        nodes=nodes,
        deployments=deployments,
        jobs=[job for job in busy if not JobStatus(job.status).is_over],
        requests=requests,
        requests_under_way=len(controller.inference.running()),
    )
    if wants_page(request):
        return page(request, "status.html", view=view)
    return Response(view.model_dump_json(), media_type="application/json")


@router.get("/inference/", summary="Ask a model", responses=HTML)
async def inference(
    request: Request, controller: TheController, model: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """A page with a form that streams the answer."""
    deployments = await deployment_views(controller)
    models, requests = await asyncio.gather(model_views(controller), recent_requests(controller, RECENT))
    deployed = [one.model for one in deployments]
    names = sorted((one.name for one in models), key=lambda name: (name not in deployed, name.casefold()))
    return page(request, "inference.html", names=names, deployed=set(deployed), chosen=model, requests=requests)


@router.get("/shard/nodes/", summary="Nodes", responses=HTML)
async def nodes(request: Request, controller: TheController) -> Response:
    """A page with all nodes; add one, remove one."""
    # A key may begin with a dash and hold what a shell would read.
    trust = shlex.quote(f"--trust={controller.identity.keys.public}")
    return page(request, "nodes.html", nodes=await node_views(controller), trust=trust)


@router.get("/shard/models/", summary="Models and deployments", responses=HTML)
async def models(request: Request, controller: TheController) -> Response:
    """A page with the library, what is deployed, and the work that is under way for either."""
    library, deployments, known, recent = await asyncio.gather(
        model_views(controller),
        deployment_views(controller),
        node_views(controller),
        recent_jobs(controller, RECENT),
    )
    return page(request, "models.html", models=library, deployments=deployments, nodes=known, jobs=recent)


@router.get("/shard/runs/{kind}/{run_id}/", summary="One run", responses={**HTML, **errors(404, 422)})
async def run(
    request: Request, controller: TheController, kind: Kind, run_id: Annotated[str, Path(max_length=100)]
) -> Response:
    """A page with what is recorded of a run and where its time went; of a job also how far it is."""
    found = await live_run(controller, kind, run_id)
    job = await job_view(controller, int(found.id)) if kind == "job" else None
    return page(request, "run.html", run=found, told=await asyncio.to_thread(tell, found), job=job)
