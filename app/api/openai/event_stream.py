"""Server-sent events: written as they come, a sign of life when none come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.openai.hangup import ClientGone, Hangup

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
ALIVE = b": still at work\n\n"
"""A comment: clients skip it, proxies and time limits see that the connection lives."""
HEADERS = {
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # nginx would otherwise collect the answer
    "connection": "keep-alive",
}


def event(content: BaseModel) -> bytes:
    """One event; only the fields that were set, since null and nothing are not the same."""
    return b"data: %b\n\n" % content.model_dump_json(exclude_unset=True).encode()


def named_event(name: str, number: int, content: BaseModel) -> bytes:
    """As `event`, with a name, and a number that a client can go on behind."""
    return b"event: %b\nid: %d\n%b" % (name.encode(), number, event(content))


class EventStream(Response):
    """Sends `events`, each as `event` makes it, until they end.

    Writing waits for the client (a slow one slows its own stream alone; what is not sent yet stays with the request,
    as long as its answer at most). A client that has hung up ends the stream; one that reads nothing for long is hung
    up on by the server, which is the same here.

    Args:
        hangup: watches the client; closed in the end.
        on_end: whatever happens, called once, in the end.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        hangup: Hangup,
        on_end: Callable[[], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={**HEADERS, **(headers or {})})
        del self.headers["content-length"]  # nobody knows it yet
        self._events, self._hangup, self._on_end = events, hangup, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._hangup.unless(self._send_all(send))
        except ClientGone:
            log.info("a client hung up in the middle of its stream")
        finally:
            self._hangup.close()
            await asyncio.shield(self._on_end())

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._events) as events:  # whoever hung up has left them, whatever they were waiting for
            async for data in events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
