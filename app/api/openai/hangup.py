"""Notices at once that a client has gone, so that nobody computes for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

Result = TypeVar("Result")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Hangup:
    """Watches one connection from the moment at which its body has been read. `close` it in the end."""

    def __init__(self, receive: Receive) -> None:
        self._gone = asyncio.get_running_loop().create_task(_until_gone(receive))

    async def unless(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something as long as the client is there. Raises ClientGone, once the work has cleaned up behind itself.

        What the work raises is raised here.
        """
        doing = asyncio.get_running_loop().create_task(work)
        try:
            await asyncio.wait({doing, self._gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not doing.done():
                doing.cancel()
                await asyncio.wait({doing})
        if doing.cancelled():
            raise ClientGone
        return doing.result()

    def close(self) -> None:
        self._gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
