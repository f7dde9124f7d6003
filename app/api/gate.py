"""How much comes in at a time, and how big it may be: a server that is asked for too much says so at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import Problem, on_bug
from app.api.failures import Overloaded, Refused
from app.errors import ShardboardError
from app.figures import size_text

MOST_REQUESTS = 512
"""Under way at a time, streams among them."""
MOST_BODY_BYTES = 8 * 2**20
BODY_SECONDS = 60.0
"""A body that has not come by then was never meant to."""
ALWAYS = ("/health", "/metrics")
"""Answered also when nothing else is, so that somebody can see why."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer browsers say "Origin: null" of our own pages' forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}

OnAnswered = Callable[[Scope, int, float], None]
"""Told of each request: its scope, the status of the answer (0: none was begun), seconds."""


class Gate:
    """The outermost middleware: counts what is under way, refuses what is too much, puts the headers on answers."""

    def __init__(self, most: int = MOST_REQUESTS) -> None:
        self.active = 0
        self.streams = 0
        self.draining = False
        """Nothing new is begun: the server is about to end."""
        self.on_answered: OnAnswered = lambda scope, status, seconds: None
        self._most = most
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self) -> None:
        """Until nothing is under way."""
        await self._idle.wait()

    def enter(self, path: str) -> None:
        """Count one more in. Raises Overloaded."""
        if not path.startswith(ALWAYS):
            if self.draining:
                raise Overloaded("The server is about to end.", "Try again when it is back.")
            if self.active >= self._most:
                raise Overloaded(f"{self._most} requests are under way already.", "Try again in a few seconds.")
        self.active += 1
        self._idle.clear()

    def leave(self) -> None:
        self.active -= 1
        if not self.active:
            self._idle.set()


class Counted:
    """Gate as a middleware."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(self._gate, send)
        began = time.monotonic()
        try:
            self._gate.enter(scope["path"])
        except ShardboardError as error:
            await Problem.of(error).response(Request(scope))(scope, receive, answer.send)
            self._gate.on_answered(scope, answer.status, time.monotonic() - began)
            return
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            if answer.status:
                raise  # it has begun: what is left is to break off
            await (await on_bug(Request(scope), error))(scope, receive, answer.send)
        finally:
            answer.over()
            self._gate.leave()
            self._gate.on_answered(scope, answer.status, time.monotonic() - began)


class _Answer:
    """One answer on its way out."""

    def __init__(self, gate: Gate, send: Send) -> None:
        self._gate, self._send = gate, send
        self.status = 0
        self._is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if self._gate.draining:
                headers["Connection"] = "close"
            if headers.get("content-type", "").startswith("text/event-stream"):
                self._is_stream = True
                self._gate.streams += 1
        await self._send(message)

    def over(self) -> None:
        if self._is_stream:
            self._gate.streams -= 1


class Bounded:
    """Reads a body before anybody works on it: all of it, in time, and not more than there is room for.

    Behind the door, so that only those who may come in can fill memory.
    """

    def __init__(self, app: ASGIApp, most_bytes: int = MOST_BODY_BYTES, seconds: float = BODY_SECONDS) -> None:
        self._app, self._most, self._seconds = app, most_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(Headers(scope=scope), receive)
        except TimeoutError:
            error = Refused(408, f"The body did not come within {self._seconds:.0f} s.", code="slow_body")
            await _close_with(error, scope, receive, send)
            return
        except Refused as error:
            await _close_with(error, scope, receive, send)
            return
        if body is None:
            return  # the client has gone
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._most:
            raise self._too_big()
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if len(body) > self._most:
                raise self._too_big()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_big(self) -> Refused:
        return Refused(
            413, f"The body is bigger than {size_text(self._most)}.", "Send less at a time.", code="too_large"
        )


async def _close_with(error: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer and hang up: the rest of the body is not wanted."""
    response = Problem.of(error).response(Request(scope))
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
