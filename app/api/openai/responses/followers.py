"""Who follows responses, and what becomes of one that nobody follows any more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.inference.request_run import RequestRun

RETURN_SECONDS = 15.0
"""A client whose connection was cut is back by then, if it comes back."""


class Followers:
    """Counts those who read a response's stream. Belongs to the loop."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._ends: set[asyncio.Task[None]] = set()

    @contextmanager
    def one_more(self, run: RequestRun, *, stays: bool) -> Iterator[None]:
        """While the block runs, somebody reads.

        Args:
            stays: it goes on without anybody; else it is cancelled when the last one has gone and nobody has come
                back within `RETURN_SECONDS`.
        """
        self._counts[run.id] += 1
        try:
            yield
        finally:
            self._counts[run.id] -= 1
            if not self._counts[run.id]:
                del self._counts[run.id]
                if not stays and not run.is_over:
                    task = asyncio.get_running_loop().create_task(self._end_unless_followed(run))
                    self._ends.add(task)
                    task.add_done_callback(self._ends.discard)

    async def _end_unless_followed(self, run: RequestRun) -> None:
        await asyncio.sleep(RETURN_SECONDS)
        if not self._counts[run.id]:
            await run.cancel()
