"""When nodes were heard of is written down for many at once: a thousand of them answer each second."""

from __future__ import annotations

import asyncio
from datetime import datetime

from app.registry import Registry

GATHER_SECONDS = 0.2
"""So long answers are gathered at most; of few nodes next to nothing."""
MANY = 200
"""Of so many nodes."""


class BeatBook:
    """Belongs to the controller's loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: dict[int, tuple[datetime, bool]] = {}
        self._gathering: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._usual = 1
        """How many nodes are written at once."""

    async def note(self, node: int, at: datetime, active: bool) -> None:
        """Whether a node is there, and when it was heard of last. Returns when that is on the disk.

        Raises RegistryError.
        """
        self._waiting[node] = (at, active)
        if self._gathering is None:
            self._gathering = asyncio.create_task(self._write())
            self._tasks.add(self._gathering)
            self._gathering.add_done_callback(self._written)
        await asyncio.shield(self._gathering)

    async def close(self) -> None:
        """Have written what waits."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self) -> None:
        try:
            await asyncio.sleep(GATHER_SECONDS * min(1.0, self._usual / MANY))
        finally:
            beats, self._waiting, self._gathering = self._waiting, {}, None
        self._usual = len(beats)
        await self._registry.call(lambda known: known.nodes.heartbeats(beats))

    def _written(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it, if anybody waits still
