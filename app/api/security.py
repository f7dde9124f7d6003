"""Who may come in: the door that every request passes, and what it found out for those behind it.

In this order: the name the server was called by (DNS rebinding), the key or the session where one is demanded, and
for whatever changes something, that no page of another site caused it.
"""

from __future__ import annotations

import logging
import time
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import Problem
from app.api.failures import Refused
from app.api.hosts import HostNames, is_loopback
from app.api.keys import ADVICE, owner_of
from app.api.rendering import wants_page
from app.api.visitors import Sessions, cookie_of
from app.controller_settings import ServerSettings
from app.errors import ShardboardError
from app.registry import ApiKeyRecord, Registry
from app.runs.trace import Origin

log = logging.getLogger(__name__)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = ("/health", "/login", "/static/")
"""Without a key: what a load balancer asks, and what is needed to show one."""
FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a page of another site can send without being asked for leave (CORS) first."""
FORM_FIELD, FORM_HEADER = "csrf", "x-csrf-token"
NOTE_SECONDS = 60.0
"""A key's last use is written down at most this often: it costs a write to the disk."""
MOST_CLIENT_CHARACTERS = 200
MOST_FIELDS = 100


class Access:
    """Decides for each request. Belongs to the loop."""

    def __init__(self, registry: Registry, settings: ServerSettings, sessions: Sessions) -> None:
        self._registry, self._settings, self._sessions = registry, settings, sessions
        self.demands_key = settings.demands_key
        self._hosts = HostNames.of(settings, demands_key=self.demands_key)
        self._noted: dict[str, float] = {}

    async def admit(self, request: Request) -> None:
        """Let a request in, with its origin noted in its state. Raises Refused."""
        if not self._hosts.allow(request.headers.get("host", "")):
            raise Refused(
                421,
                "The server does not go by the name in the Host header.",
                "Call it by its address, or name the site it is reached by in the server's allowed origins.",
                code="wrong_host",
            )
        owner, by_key = await self._identify(request)
        if request.method not in SAFE_METHODS and not by_key:
            self._check_site(request)
        request.state.by_key = by_key
        request.state.origin = Origin(via="http", user=owner, client=_client(request))

    async def log_in(self, key: str) -> str:
        """Begin a browser's session with a key; the session's cookie. Raises Refused."""
        record = owner_of(key.strip(), await self._keys())
        if record is None:
            raise _wrong_key()
        await self._note_use(record)
        return self._sessions.log_in(record.name, record.digest)

    async def _identify(self, request: Request) -> tuple[str, bool]:
        """The name of the key that a request comes with, and whether it came in a header."""
        presented = _presented(request)
        if presented:
            record = owner_of(presented, await self._keys())
            if record is not None:
                await self._note_use(record)
                return record.name, True
            # Where no key is demanded, any will do: clients of OpenAI's API cannot go without one.
            if self.demands_key:
                raise _wrong_key()
            return "", False
        session = self._sessions.find(cookie_of(request))
        if session is not None:
            if any(known.digest == session.digest for known in await self._keys()):
                return session.key_name, False
            self._sessions.log_out(cookie_of(request))
        if self.demands_key and not request.url.path.startswith(OPEN_PATHS):
            raise Refused(
                401,
                "This server demands an API key.",
                f"Send it as `Authorization: Bearer KEY` or `x-api-key: KEY`. {ADVICE}",
                code="no_key",
            )
        return "", False

    def _check_site(self, request: Request) -> None:
        """Refuse what a page of another site caused. Programs send neither of these headers, browsers always do."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if origin is not None:
            if origin in self._settings.allowed_origins:
                return
            if _site_of(origin) != request.headers.get("host", "").lower():
                raise _from_elsewhere()
        if site is not None and site not in ("same-origin", "none"):
            raise _from_elsewhere()

    async def _keys(self) -> list[ApiKeyRecord]:
        return await self._registry.call(lambda known: known.api_keys.list())

    async def _note_use(self, record: ApiKeyRecord) -> None:
        now = time.monotonic()
        if now - self._noted.get(record.name, -NOTE_SECONDS) < NOTE_SECONDS:
            return
        self._noted[record.name] = now
        try:
            await self._registry.call(lambda known: known.api_keys.touch(record.name))
        except ShardboardError as error:  # whoever has the key comes in all the same
            log.warning("the use of a key could not be noted: %s", error)


class Door:
    """The middleware that asks Access."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            await self._access.admit(request)
        except ShardboardError as error:
            await _refusal(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def caller(request: Request) -> Origin:
    """Who asks: for a run's record. The door has let them in already."""
    origin: Origin = request.state.origin
    return origin


Caller = Annotated[Origin, Depends(caller)]


def is_form(request: Request) -> bool:
    """Whether a body is one that any page of any site can send."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() in FORMS


async def check_form(request: Request) -> None:
    """For every route: a form that changes something carries the token of the page it was on. Raises Refused."""
    if request.method in SAFE_METHODS or request.state.by_key or not is_form(request):
        return
    token = request.headers.get(FORM_HEADER)
    if token is None:
        field = (await request.form(max_files=0, max_fields=MOST_FIELDS)).get(FORM_FIELD)
        token = field if isinstance(field, str) else None
    sessions: Sessions = request.app.state.sessions
    if not sessions.is_token(cookie_of(request), token):
        raise Refused(
            403,
            "This form was not sent from a page of this server, or the page is too old.",
            "Load the page again and repeat it. Programs send JSON instead (Content-Type: application/json).",
            code="no_token",
        )


class Room(APIRouter):
    """Routes that are a server's as they are: each checks where a form comes from.

    FastAPI builds routes again, with all that their bodies and answers are made of, for each application that includes
    their router, at the first request: a quarter of a second in which the loop of the controller does nothing else.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(dependencies=[Depends(check_form)], **options)

    def open_in(self, application: FastAPI) -> None:
        """Have an application answer these routes."""
        application.router.routes.extend(self.routes)


def is_local(request: Request) -> bool:
    """Whether a program on this machine asks, and no proxy for somebody else."""
    forwarded = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))
    return request.client is not None and is_loopback(request.client.host) and not forwarded


def _refusal(request: Request, error: ShardboardError) -> Response:
    if isinstance(error, Refused) and error.status == 401 and request.method == "GET" and wants_page(request):
        return RedirectResponse(f"/login/?next={quote(request.url.path)}", 303)
    return Problem.of(error).response(request)


def _presented(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return request.headers.get("x-api-key", "").strip()


def _site_of(origin: str) -> str:
    """Host and port in an Origin header; empty when it is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _client(request: Request) -> str:
    agent = "".join(letter for letter in request.headers.get("user-agent", "") if letter.isprintable())
    host = request.client.host if request.client else "?"
    return f"{agent[:MOST_CLIENT_CHARACTERS] or 'a client without a name'} at {host}"


def _wrong_key() -> Refused:
    return Refused(401, "The API key is not valid here.", f"Check it, or make a new one. {ADVICE}", code="wrong_key")


def _from_elsewhere() -> Refused:
    return Refused(
        403,
        "A page of another site asked for this, so it was not done.",
        "Open this server's own pages, or name the site in the server's allowed origins.",
        code="cross_site",
    )
