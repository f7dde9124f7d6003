"""Streams that have nothing to say for a while: what goes out then, so that nobody on the way takes them for dead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

T = TypeVar("T")


async def with_signs_of_life(source: AsyncIterator[T], seconds: float) -> AsyncGenerator[T | None]:
    """What comes; None whenever nothing has come for so long. Who closes it ends the source's waiting, too."""
    upcoming: asyncio.Future[T] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(source))
            ready, _ = await asyncio.wait({upcoming}, timeout=seconds)
            if not ready:
                yield None
                continue
            try:
                told = upcoming.result()
            except StopAsyncIteration:
                return
            upcoming = None
            yield told
    finally:
        if upcoming is not None:
            upcoming.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await upcoming
