"""The requests behind one call, one for each choice: begun together, followed together, ended together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from app.api.openai.errors import ApiError, failure
from app.errors import Cancelled, ShardboardError
from app.inference.events import Finished, Started, TextDelta
from app.inference.request_run import RequestRun
from app.registry import RequestStatus

ALIVE_SECONDS = 10.0
"""A stream is given a sign of life when nothing has come for so long."""
WAITING_EVENTS = 16
"""What a slow client has not taken stays with the requests, not here."""


class RunGroup:
    """Made of the calls that begin the requests; if one cannot begin, none goes on. `close` it in the end."""

    def __init__(self, runs: Sequence[RequestRun]) -> None:
        loop = asyncio.get_running_loop()
        self.runs = tuple(runs)
        self._started = [loop.create_future() for _ in runs]
        self._events: asyncio.Queue[tuple[int, TextDelta | Finished]] = asyncio.Queue(WAITING_EVENTS)
        self._pumps = [loop.create_task(self._pump(index, run)) for index, run in enumerate(runs)]

    @classmethod
    async def begin(cls, starts: Sequence[Callable[[], Awaitable[RequestRun]]]) -> RunGroup:
        """Raises what a start raises, once those begun before are over."""
        runs: list[RequestRun] = []
        try:
            for start in starts:
                runs.append(await start())
        except BaseException:
            await _end(runs)
            raise
        return cls(runs)

    async def started(self, seconds: float) -> bool:
        """Wait until the agents have all of them, but not longer than so; whether they have.

        Raises ApiError when one has failed: then the answer can still say so by its status.
        """
        await asyncio.wait(self._started, timeout=seconds)
        for run in self.runs:
            self._check(run)
        return all(future.done() for future in self._started)

    async def events(self) -> AsyncIterator[tuple[int, TextDelta | Finished] | None]:
        """(index of the run, what it tells), until all are over; None when nothing has come for `ALIVE_SECONDS`.

        Raises ApiError when one fails: the others are no answer to what was asked.
        """
        left = len(self.runs)
        while left:
            try:
                async with asyncio.timeout(ALIVE_SECONDS):
                    index, event = await self._events.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(event, Finished):
                self._check(self.runs[index])
                left -= 1
            yield index, event

    async def finished(self) -> None:
        """Wait until all are over. Raises ApiError when one fails."""
        async for _ in self.events():
            pass

    async def close(self) -> None:
        """Cancel what is not over and wait until it is: its memory is free then."""
        for pump in self._pumps:
            pump.cancel()
        await _end(self.runs)

    def has_started(self, index: int) -> bool:
        future = self._started[index]
        return future.done() and bool(future.result())

    def _check(self, run: RequestRun) -> None:
        if run.is_over and run.record.status is not RequestStatus.COMPLETED:
            raise self._failure(run)

    def _failure(self, run: RequestRun) -> ApiError:
        return failure_of(run, computing=self.has_started(self.runs.index(run)))

    async def _pump(self, index: int, run: RequestRun) -> None:
        started = self._started[index]
        async for event in run:
            if isinstance(event, Started | Finished) and not started.done():
                started.set_result(isinstance(event, Started))
            if isinstance(event, TextDelta | Finished):
                await self._events.put((index, event))


def failure_of(run: RequestRun, *, computing: bool) -> ApiError:
    """Why a request that is over has no answer; for `computing` see `failure`."""
    error: ShardboardError | None = run.error
    if run.record.status is RequestStatus.CANCELLED:
        error = Cancelled("The request was cancelled.")
    return failure(error, str(error or run.record.error), computing=computing)


async def _end(runs: Sequence[RequestRun]) -> None:
    await asyncio.gather(*(run.cancel() for run in runs if not run.is_over))
