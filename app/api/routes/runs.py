"""Runs: what is recorded of requests, deployments and jobs, what took their time, and their export."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from app.api.bodies import Nothing, Strict, accepts, body_of, done
from app.api.download import Downloads
from app.api.routes.events import aware
from app.api.security import Caller, Room
from app.api.state import MOST_ID, TheController
from app.api.views import ALWAYS, errors
from app.controller import Controller
from app.errors import BadInput
from app.runs.bottleneck import explain
from app.runs.export import MEDIA_TYPES, SUFFIXES, ExportFormat, export_runs
from app.runs.infinities import without_infinities
from app.runs.run import Run, RunKind
from app.runs.waterfall import bars, shares

router = Room(prefix="/shard/api/runs", tags=["runs"], responses=errors(*ALWAYS))

MOST_IDS = 10_000
MOST_RUNS = 1_000_000
Kind = Literal["request", "deployment", "job"]
BUNDLE_TYPE = "application/zip"
DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file; its type is that of the format.",
        "content": {kind.partition(";")[0]: {} for kind in (*MEDIA_TYPES.values(), BUNDLE_TYPE)},
    }
}


class Format(StrEnum):
    """What a download is. A bundle is of one request, and can be run again with `main.py replay`."""

    JSONL = "jsonl"
    CSV = "csv"
    HTML = "html"
    CHROME = "chrome"
    BUNDLE = "bundle"


class PrunedView(BaseModel):
    """How much was forgotten of each."""

    requests: int
    jobs: int
    events: int
    traces: int


class Export(Strict):
    """Which runs, and in what format. What is left out does not narrow them down."""

    format: Format = Format.JSONL
    kind: Kind = "request"
    ids: list[str] | None = Field(default=None, max_length=MOST_IDS)
    since: datetime | None = None
    until: datetime | None = None
    model: str | None = Field(default=None, max_length=200)
    limit: int | None = Field(default=None, ge=1, le=MOST_RUNS)


class RunView(BaseModel):
    """A run as it is exported, where its time went, and one sentence that says what took most of it."""

    run: dict[str, Any] = Field(description="see docs/formats.md")
    shares: dict[str, Any] | None = Field(default=None, description="of requests: microseconds by what they went into")
    bars: list[dict[str, Any]] | None = Field(
        default=None, description="of requests, if asked for: each trip of a token"
    )
    bottleneck: dict[str, Any] | None = Field(default=None, description="of requests: `sentence` says it in words")


@router.get(
    "/export/", summary="Download runs", response_class=StreamingResponse,
    responses={**DOWNLOAD, **errors(400, 404, 422)},
)  # fmt: skip
async def export(
    request: Request,
    controller: TheController,
    format: Format = Format.JSONL,
    kind: Kind = "request",
    ids: Annotated[str | None, Query(max_length=200_000, description="with commas between them")] = None,
    since: datetime | None = None,
    until: datetime | None = None,
    model: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int | None, Query(ge=1, le=MOST_RUNS)] = None,
) -> Response:
    """Runs as a file: JSON Lines, CSV of timings, an HTML report, a Chrome trace, or a request's incident bundle.

    Newest first, or in the order of `ids`. The file is made while it is sent, however many runs it has.
    """
    named = None if ids is None else [one.strip() for one in ids.split(",") if one.strip()]
    wanted = Export(format=format, kind=kind, ids=None, since=since, until=until, model=model, limit=limit)
    return await _download(request, controller, wanted, named)


@router.post(
    "/export/", summary="Download runs", response_class=StreamingResponse, openapi_extra=body_of(Export),
    responses={**DOWNLOAD, **errors(400, 404, 415, 422)},
)  # fmt: skip
async def export_selection(
    request: Request, controller: TheController, body: Annotated[Export, Depends(accepts(Export))]
) -> Response:
    """As with GET, for selections too long for an address."""
    return await _download(request, controller, body, body.ids)


@router.post(
    "/prune/", summary="Forget what is too old or too much",
    responses={200: {"model": PrunedView}, **errors(400, 415, 422, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def prune(
    request: Request,
    controller: TheController,
    origin: Caller,
    body: Annotated[Nothing, Depends(accepts(Nothing))],
) -> Response:
    """Runs, events and records of times beyond what the settings allow, now; else that is done every six hours."""
    return done(request, PrunedView(**asdict(await controller.prune(origin))), "/")


@router.get("/{kind}/{run_id}/", summary="One run", responses={200: {"model": RunView}, **errors(404, 422)})
async def analysis(
    controller: TheController,
    kind: Kind,
    run_id: Annotated[str, Path(max_length=100)],
    with_bars: Annotated[bool, Query(alias="bars", description="also each token's way round the ring")] = False,
) -> Response:
    """All that is recorded of it. A request that is under way is told as far as it has come."""
    run = await live_run(controller, kind, run_id)
    return Response(await asyncio.to_thread(analysed, run, with_bars), media_type="application/json")


async def live_run(controller: Controller, kind: Kind, run_id: str) -> Run:
    """A run as it is now. Raises RegistryError when there is none."""
    run = await controller.registry.call(lambda _: controller.runs.find(kind, run_id))
    if kind == "request" and (live := controller.find_request(_number(run_id))) is not None:
        return live.as_of_now(run)
    return run


def analysed(run: Run, with_bars: bool) -> bytes:
    """The JSON of a RunView."""
    read = None if run.request is None else run.request.prompt_tokens or None
    run = without_infinities(run)
    trace = run.request_trace
    timed = trace if trace is not None and (trace.tokens or trace.chunks) else None
    return msgspec.json.encode(
        {
            "run": run,
            "shares": None if timed is None else shares(timed),
            "bars": None if timed is None or not with_bars else bars(timed),
            "bottleneck": None if timed is None else explain(timed, read),
        }
    )


async def _download(request: Request, controller: Controller, wanted: Export, ids: Sequence[str] | None) -> Response:
    if wanted.format is Format.BUNDLE:
        return await _bundle(controller, wanted, ids)
    format = ExportFormat(wanted.format.value)
    # What is not there is told as an error, not as a file that breaks off.
    await controller.registry.call(lambda _: [controller.runs.find(wanted.kind, id) for id in ids or ()])
    kind: RunKind = wanted.kind
    runs = functools.partial(
        controller.runs.select, kinds=(kind,), ids=ids, since=aware(wanted.since), until=aware(wanted.until),
        model=wanted.model, limit=wanted.limit,
    )  # fmt: skip

    def write(output: BinaryIO) -> None:
        export_runs(runs(), format, output)

    downloads: Downloads = request.app.state.downloads
    name = f"shardboard-{wanted.kind}s{SUFFIXES[format]}"
    if ids is not None and len(ids) == 1:
        name = f"shardboard-{wanted.kind}-{_plain(ids[0])}{SUFFIXES[format]}"
    return StreamingResponse(await downloads.begin(write), media_type=MEDIA_TYPES[format], headers=_attached(name))


async def _bundle(controller: Controller, wanted: Export, ids: Sequence[str] | None) -> Response:
    from app.incident.bundle import make_bundle  # needed for the first bundle, not for the start

    if wanted.kind != "request" or ids is None or len(ids) != 1:
        raise BadInput("A bundle is of exactly one request.", "Give one id, and `kind` request.")
    number = _number(ids[0])
    await controller.registry.call(lambda _: controller.runs.request(number))
    data = await make_bundle(controller, number)
    return Response(data, media_type=BUNDLE_TYPE, headers=_attached(f"incident-{number}.zip"))


def _attached(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def _plain(id: str) -> str:
    return "".join(letter for letter in id if letter.isascii() and letter.isalnum())[:40] or "run"


def _number(id: str) -> int:
    """A request's number; 0, which none has, for what is no number."""
    return min(int(id), MOST_ID) if id.isascii() and id.isdecimal() and len(id) < 20 else 0
