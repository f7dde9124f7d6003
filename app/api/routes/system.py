"""How the server itself is: for people's monitors and for Prometheus."""

from __future__ import annotations

import time
from typing import Any, Literal

from fastapi import Request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse, Response

from app.api.gate import Gate
from app.api.security import Room
from app.api.views import errors
from app.controller import Controller
from app.errors import ShardboardError

router = Room(tags=["system"], responses=errors(421))

FRESH_SECONDS = 1.0
"""How long an answer about the registry counts: anybody may ask, and each question costs a write."""


class Health(BaseModel):
    """Whether the server lives, and whether it can be given work."""

    status: Literal["ok", "degraded", "failing", "ending"]
    """degraded: no node answers and gets on; failing: the registry cannot be written; ending: it is about to stop."""
    registry: str
    nodes: int
    nodes_up: int


HEALTH: dict[int | str, dict[str, Any]] = {
    200: {"model": Health},
    503: {"model": Health, "description": "It cannot be given work; `status` says why."},
}


@router.head("/health", include_in_schema=False)
@router.get("/health", summary="Liveness and readiness", responses=HEALTH)
async def health(request: Request) -> Response:
    """200 while the server can do its work; 503 when the registry cannot be written or the server is ending."""
    found = await _look(request)
    return JSONResponse(found.model_dump(), 503 if found.status in ("failing", "ending") else 200)


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", summary="Liveness")
async def live() -> Response:
    """200 as long as the process answers at all."""
    return JSONResponse({"status": "ok"})


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", summary="Readiness", responses=HEALTH)
async def ready(request: Request) -> Response:
    """200 when a request to a model has a chance: the registry can be written, and a node answers and gets on.

    Else 503.
    """
    found = await _look(request)
    return JSONResponse(found.model_dump(), 200 if found.status == "ok" else 503)


@router.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse, responses=errors(401))
async def metrics(request: Request) -> Response:
    """In Prometheus' text format."""
    return Response(await request.app.state.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _look(request: Request) -> Health:
    controller: Controller = request.app.state.controller
    gate: Gate = request.app.state.gate
    trouble = await _trouble(request)
    links = controller.nodes.links()
    up = sum(controller.nodes.heard(node).is_up for node in links)
    status: Literal["ok", "degraded", "failing", "ending"] = "ok"
    if gate.draining:
        status = "ending"
    elif trouble:
        status = "failing"
    elif not up:
        status = "degraded"
    # Who needs no key to ask does not learn where the registry lies.
    return Health(status=status, registry="cannot be written" if trouble else "ok", nodes=len(links), nodes_up=up)


async def _trouble(request: Request) -> bool:
    """Whether the registry fails to take a write. It must be a real one: what changes nothing needs no disk."""
    state = request.app.state
    at, trouble = getattr(state, "registry_checked", (-FRESH_SECONDS, False))
    if time.monotonic() - at < FRESH_SECONDS:
        return bool(trouble)
    try:
        await state.controller.registry.call(lambda known: known.traces.try_out())
        trouble = False
    except ShardboardError:
        trouble = True
    state.registry_checked = (time.monotonic(), trouble)
    return bool(trouble)
