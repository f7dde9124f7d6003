"""Browsers that look at the pages: the cookie each gets, who it has logged in as, and the tokens of its forms.

The cookie's value is random and means nothing by itself. A form's token is an HMAC of it under a secret of this
process: a page of another site neither reads the cookie nor can make the token. Both end with the process.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request

MOST_SESSIONS = 1_000
SESSION_SECONDS = 12 * 3600.0
SAME_SITE: Literal["lax"] = "lax"
"""The cookie comes with no request that another site causes but a link that is followed. A strict one would not come
with that either: the browser would be given a new one in its place, which ends the session and spoils open forms."""


@dataclass
class Session:
    """A browser that has shown a key. It ends with the key, or when it was not used for half a day."""

    key_name: str
    digest: str
    used_at: float


class Sessions:
    """All browsers that visit one server."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._sessions: dict[str, Session] = {}

    @staticmethod
    def new_cookie() -> str:
        return secrets.token_urlsafe(24)

    def token(self, cookie: str) -> str:
        """What the forms shown to this browser carry."""
        return hmac.new(self._secret, cookie.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def is_token(self, cookie: str | None, token: str | None) -> bool:
        """Whether a form was shown to this browser by this server."""
        if not cookie or not token:
            return False
        return hmac.compare_digest(self.token(cookie).encode(), token.encode("utf-8", "replace"))

    def log_in(self, key_name: str, digest: str) -> str:
        """Begin a session; its cookie, which is another one than before, so that nobody can have planted it."""
        now = time.monotonic()
        for cookie in [name for name, one in self._sessions.items() if now - one.used_at > SESSION_SECONDS]:
            del self._sessions[cookie]
        while len(self._sessions) >= MOST_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda name: self._sessions[name].used_at)]
        cookie = self.new_cookie()
        self._sessions[cookie] = Session(key_name, digest, now)
        return cookie

    def find(self, cookie: str | None) -> Session | None:
        """The session of a cookie, used now."""
        session = self._sessions.get(cookie or "")
        now = time.monotonic()
        if session is None or now - session.used_at > SESSION_SECONDS:
            return None
        session.used_at = now
        return session

    def log_out(self, cookie: str | None) -> None:
        self._sessions.pop(cookie or "", None)


@dataclass(frozen=True)
class Visitor:
    """The browser behind a request, as pages need to know it."""

    cookie_name: str
    cookie: str
    token: str
    is_new: bool
    """The cookie must be set."""
    logged_in: bool
    secure: bool
    """The cookie is for encrypted connections only."""


def cookie_name(request: Request) -> str:
    """One for each port: cookies know hosts only, and two controllers may run on one machine."""
    server = request.scope.get("server")
    return f"shardboard-{server[1] if server else 0}"


def cookie_of(request: Request) -> str | None:
    return request.cookies.get(cookie_name(request))


def visitor_of(request: Request) -> Visitor:
    """Who looks at a page. A browser without a cookie is given one."""
    sessions: Sessions = request.app.state.sessions
    known = cookie_of(request)
    cookie = known or sessions.new_cookie()
    return Visitor(
        cookie_name(request), cookie, sessions.token(cookie), known is None, sessions.find(known) is not None,
        request.url.scheme == "https",
    )  # fmt: skip
