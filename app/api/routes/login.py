"""Showing a key in a browser: a form, a session, and leaving again."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from app.api.bodies import LogIn, Nothing, accepts
from app.api.failures import Refused
from app.api.rendering import page
from app.api.security import Access, Room
from app.api.visitors import SAME_SITE, Sessions, cookie_name, cookie_of

router = Room(include_in_schema=False)


@router.get("/login/")
async def form(request: Request, next: Annotated[str, Query(max_length=2000)] = "/") -> Response:
    access: Access = request.app.state.access
    return page(request, "login.html", next=_own(next), problem="", needed=access.demands_key)


@router.post("/login/")
async def log_in(request: Request, body: Annotated[LogIn, Depends(accepts(LogIn))]) -> Response:
    access: Access = request.app.state.access
    try:
        cookie = await access.log_in(body.key)
    except Refused as error:
        return page(
            request, "login.html", error.status, next=_own(body.next), problem=str(error), needed=access.demands_key
        )
    response = RedirectResponse(_own(body.next), 303)
    response.set_cookie(
        cookie_name(request), cookie, httponly=True, samesite=SAME_SITE, secure=request.url.scheme == "https", path="/"
    )
    return response


@router.post("/logout/")
async def log_out(request: Request, body: Annotated[Nothing, Depends(accepts(Nothing))]) -> Response:
    sessions: Sessions = request.app.state.sessions
    sessions.log_out(cookie_of(request))
    response = RedirectResponse("/login/", 303)
    response.delete_cookie(cookie_name(request), path="/", httponly=True, samesite=SAME_SITE)
    return response


def _own(target: str) -> str:
    """A path of this server; the start page for anything that could lead elsewhere."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain else "/"
