"""What a controller does unasked: by the clock, look after its pipelines and forget what is too old; when nodes tell
something, make way for a machine's owner, and see that Ray's agents are complete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from app.cluster.health import NodeEvent
from app.errors import ShardboardError
from app.launchers.ray_keeping import RayKeeping
from app.making_way import MakingWay

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

    def __init__(
        self,
        watch: Callable[[], None], prune: Callable[[], Awaitable[object]], making_way: MakingWay,
        ray_keeping: RayKeeping,
    ) -> None:  # fmt: skip
        self._watch, self._prune, self._making_way, self._ray_keeping = watch, prune, making_way, ray_keeping
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """What goes by the clock: of a controller that stays."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._watching()), loop.create_task(self._pruning())]
        self._ray_keeping.begin()

    def on_node_event(self, event: NodeEvent) -> None:
        self._making_way.on_node_event(event)
        self._ray_keeping.on_node_event(event)

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._making_way.close()
        self._ray_keeping.close()

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
