"""Downloads that are written by a thread while they are sent, as fast as their reader takes them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, cast

from app.api.failures import Overloaded

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PIECE_BYTES = 64 * 1024
PIECES = 4
"""Written ahead of the reader."""
MOST_DOWNLOADS = 4
"""At a time; each has a thread of its own for as long as its reader takes."""

Write = Callable[[BinaryIO], object]


class Downloads:
    """The threads of one server's downloads. They are none of the loop's own, which a slow reader must not use up."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MOST_DOWNLOADS, "download")
        self._under_way = 0

    async def begin(self, write: Write) -> AsyncIterator[bytes]:
        """Start to write, and return what comes of it once its first piece is there.

        Raises what the writing raises before that, or Overloaded.
        """
        if self._under_way >= MOST_DOWNLOADS:
            raise Overloaded(f"{MOST_DOWNLOADS} downloads are under way already.", "Try again when one has ended.")
        self._under_way += 1
        pipe = _Pipe(asyncio.get_running_loop())
        pieces = self._pieces(pipe, write)
        try:
            first = await anext(pieces)
        except StopAsyncIteration:
            first = b""
        return _resumed(first, pieces)

    def close(self) -> None:
        """Threads that are still writing end with their next piece."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _pieces(self, pipe: _Pipe, write: Write) -> AsyncIterator[bytes]:
        try:
            writing = asyncio.get_running_loop().run_in_executor(self._threads, pipe.fill, write)
            writing.add_done_callback(_see)
            try:
                while (piece := await pipe.queue.get()) is not None:
                    yield piece
                await writing
            finally:
                pipe.close_reader()
                await asyncio.wait({writing})
        finally:
            self._under_way -= 1


def _see(writing: asyncio.Future[None]) -> None:
    """What it raised is raised to the reader, or nobody is there to hear it: a reader that leaves cancels the rest."""
    if not writing.cancelled():
        writing.exception()


class _Pipe(io.RawIOBase):
    """The writer's end is a file for a thread, the reader's a queue on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(PIECES)
        self._loop, self._gone = loop, False

    def fill(self, write: Write) -> None:
        """In the thread: write everything, and always say that it is over."""
        try:
            with io.BufferedWriter(self, PIECE_BYTES) as output:
                write(cast(BinaryIO, output))
        finally:
            if not self._gone:
                self._put(None)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        piece = bytes(data)
        if self._gone:
            raise BrokenPipeError("the reader has left")
        self._put(piece)
        return len(piece)

    def close_reader(self) -> None:
        """On the loop: nobody reads any more. A writer that waits for room is let go on, and then told."""
        self._gone = True
        while not self.queue.empty():
            self.queue.get_nowait()

    def _put(self, piece: bytes | None) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self.queue.put(piece), self._loop).result()
        except (CancelledError, RuntimeError) as error:  # the loop has ended
            raise BrokenPipeError("the reader has left") from error


async def _resumed(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for piece in rest:
            yield piece
    finally:
        await rest.aclose()  # type: ignore[attr-defined]  # it is a generator
