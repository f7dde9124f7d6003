"""What a controller that stays does by the clock: look after its pipelines, forget what is too old."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from app.errors import ShardboardError

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
FIRST_PRUNE_SECONDS = 60.0
"""Whoever has just opened the window has better things to wait for."""
PRUNE_SECONDS = 6 * 3600.0
"""How often what is too old is forgotten."""


class Upkeep:
    """Belongs to the controller's loop.

    Args:
        watch: called each second.
        prune: called a minute after the start, then every six hours.
    """

    def __init__(self, watch: Callable[[], None], prune: Callable[[], Awaitable[object]]) -> None:
        self._watch, self._prune = watch, prune
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._watching()), loop.create_task(self._pruning())]

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._watch()

    async def _pruning(self) -> None:
        await asyncio.sleep(FIRST_PRUNE_SECONDS)
        while True:
            try:
                await self._prune()
            except ShardboardError as error:
                log.warning("old records could not be forgotten: %s", error)
            await asyncio.sleep(PRUNE_SECONDS)
