"""How the server itself is: for people's monitors and for Prometheus."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from app.api.gate import Gate
from app.controller import Controller
from app.errors import ShardboardError

router = APIRouter(tags=["system"])

FRESH_SECONDS = 1.0
"""How long an answer about the registry counts: anybody may ask, and each question costs a write."""


class Health(BaseModel):
    """Whether the server lives, and whether it can be given work."""

    status: Literal["ok", "degraded", "failing", "ending"]
    """degraded: no node answers; failing: the registry cannot be written; ending: it is about to stop."""
    registry: str
    nodes: int
    nodes_up: int


@router.get("/health", summary="Liveness and readiness")
async def health(request: Request) -> Response:
    """200 while the server can do its work; 503 when the registry cannot be written or the server is ending."""
    found = await _look(request)
    return JSONResponse(found.model_dump(), 503 if found.status in ("failing", "ending") else 200)


@router.get("/health/live", summary="Liveness")
async def live() -> Response:
    """200 as long as the process answers at all."""
    return JSONResponse({"status": "ok"})


@router.get("/health/ready", summary="Readiness")
async def ready(request: Request) -> Response:
    """200 when a request to a model has a chance: the registry can be written and a node answers. Else 503."""
    found = await _look(request)
    return JSONResponse(found.model_dump(), 200 if found.status == "ok" else 503)


@router.get("/metrics", summary="Figures for Prometheus")
async def metrics(request: Request) -> Response:
    """In Prometheus' text format."""
    return Response(await request.app.state.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _look(request: Request) -> Health:
    controller: Controller = request.app.state.controller
    gate: Gate = request.app.state.gate
    trouble = await _trouble(request)
    links = controller.nodes.links()
    up = sum(controller.nodes.health.is_alive(node) for node in links)
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
    """Whether the registry fails to take a write: that of nothing, which still goes all the way through its writer."""
    state = request.app.state
    at, trouble = getattr(state, "registry_checked", (-FRESH_SECONDS, False))
    if time.monotonic() - at < FRESH_SECONDS:
        return bool(trouble)
    try:
        await asyncio.to_thread(state.controller.registry.api_keys.touch, "")
        trouble = False
    except ShardboardError:
        trouble = True
    state.registry_checked = (time.monotonic(), trouble)
    return bool(trouble)
