"""Bundles and replays as the control door offers them: bytes in, bytes out, wherever the controller is."""

from __future__ import annotations

import asyncio

from app.children.work import ProgressCallback
from app.controller import Controller
from app.incident.bundle import Bundle, make_bundle
from app.incident.comparison import Comparison
from app.incident.replay import replay
from app.runs.trace import UNKNOWN, Origin


async def incident_bundle(controller: Controller, request_id: int) -> bytes:
    """See `app.incident.bundle.make_bundle`."""
    return await make_bundle(controller, request_id)


async def replay_bundle(
    controller: Controller,
    data: bytes,
    *,
    model: str | None = None,
    deploy: bool = False,
    with_faults: bool = False,
    on_progress: ProgressCallback = lambda progress: None,
    origin: Origin = UNKNOWN,
) -> Comparison:
    """See `app.incident.replay.replay`. Raises BadInput for what is no bundle, besides."""
    bundle = await asyncio.to_thread(Bundle.read, data)
    return await replay(
        controller, bundle, model=model, deploy=deploy, with_faults=with_faults, on_progress=on_progress, origin=origin
    )
