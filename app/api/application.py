"""The application: doors in front, routes behind, and what they share."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from app.api import errors, openai
from app.api.download import Downloads
from app.api.gate import Bounded, Counted, Gate
from app.api.metrics import Metrics
from app.api.routes import ROOMS
from app.api.security import Access, Door
from app.api.visitors import Sessions
from app.controller import Controller
from app.controller_settings import ServerSettings
from worker_agent import __version__

STATIC = Path(__file__).parent / "static"
ABOUT = """\
Endpoints of a Shardboard controller: nodes, models, shards, deployments, requests, runs and their export.

Errors are `{"error": {"message", "advice", "type", "code"}}`. Where an API key is demanded, send it as
`Authorization: Bearer KEY` or `x-api-key: KEY`.
"""


def make_application(controller: Controller, settings: ServerSettings) -> FastAPI:
    """An application for one server; what belongs to it hangs on its state: controller, access, gate, metrics."""
    application = FastAPI(
        title="Shardboard",
        version=__version__,
        description=ABOUT,
        docs_url=None,  # FastAPI's own page loads scripts from elsewhere; ours is in routes/reference.py
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    state = application.state
    state.controller, state.settings = controller, settings
    state.sessions, state.gate = Sessions(), Gate()
    state.access = Access(controller.registry, settings, state.sessions)
    state.downloads = Downloads()
    state.metrics = Metrics(controller, state.gate)
    errors.install(application)
    # From the inside out: the last one added is the first one passed.
    application.add_middleware(Bounded)
    application.add_middleware(Door, access=state.access)
    if settings.allowed_origins:
        application.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST", "DELETE"],
            # Clients send ever new ones (x-stainless-os, openai-beta). None of them opens anything but a key.
            allow_headers=["*"],
            expose_headers=["retry-after", "x-request-id", "x-should-retry"],
            # A page of the web that asks a server in its visitor's own network; that it may is said by its origin.
            allow_private_network=True,
        )
    application.add_middleware(Counted, gate=state.gate)
    for room in (*ROOMS, openai.router(controller)):
        room.open_in(application)
    application.mount("/static", _Static(directory=STATIC, check_dir=False), name="static")
    return application


class _Static(StaticFiles):
    """Our own files, asked for anew each time: they change with the version."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they come
        response.headers["Cache-Control"] = "no-cache"
        return response
