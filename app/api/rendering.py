"""Pages from their templates. Whoever asks for HTML gets a page; everybody else gets JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from app.api.visitors import SAME_SITE, Visitor, visitor_of
from app.cluster.node_state import ANSWERING
from app.figures import ago, amount_text, held_text, size_text, utc
from app.runs.telling import event_text
from app.runs.ways import lost_text
from worker_agent import __version__

TEMPLATES = Path(__file__).parent / "templates"

# Read once: a loader of files looks at them each time a page is made, on the loop.
_environment = jinja2.Environment(
    loader=jinja2.DictLoader({path.name: path.read_text("utf-8") for path in TEMPLATES.iterdir() if path.is_file()}),
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


def wants_page(request: Request) -> bool:
    """Whether HTML is preferred to JSON. Programs that take anything get JSON."""
    return _quality(request.headers.get("accept", ""), "text/html") > _quality(
        request.headers.get("accept", ""), "application/json"
    )


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page, with the cookie that its forms are bound to."""
    visitor = visitor_of(request)
    text = render(
        template, **values, path=request.url.path, visitor=visitor, token=visitor.token, has_log_out=visitor.logged_in
    )
    response = HTMLResponse(text, status)
    keep_cookie(response, visitor)
    return response


def render(template: str, **values: Any) -> str:
    """The text of a page. `page` gives it what every page needs of its request."""
    return _environment.get_template(template).render(**values, version=__version__)


def error_page(
    request: Request, status: int, message: str, advice: str, headers: Mapping[str, str] | None = None
) -> Response:
    response = page(request, "error.html", status, message=message, advice=advice, code=status)
    MutableHeaders(raw=response.raw_headers).update(headers or {})
    return response


def keep_cookie(response: Response, visitor: Visitor) -> None:
    """Have the browser keep a new cookie. Not for scripts."""
    if visitor.is_new:
        response.set_cookie(
            visitor.cookie_name, visitor.cookie, httponly=True, samesite=SAME_SITE, secure=visitor.secure, path="/"
        )


_environment.globals["ANSWERING"] = ANSWERING
_environment.filters.update(
    ago=ago, event=event_text, amount=amount_text, held=held_text, lost=lost_text, size=size_text,
    value=lambda value: utc(value) if isinstance(value, datetime) else value,
)  # fmt: skip


def _quality(accept: str, wanted: str) -> float:
    """How much a media type is wanted by an Accept header; a wildcard does not count as wanting a page."""
    best = 0.0
    for part in accept.split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind.lower() == wanted:
            quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
            try:
                best = max(best, float(quality))
            except ValueError:
                continue
    return best
