"""How other threads hand something to a thread that waits in `zmq.Poller`."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue whose reader can be woken from a poll. `put` never blocks and may be called by any thread.

    A pair of plain sockets does the waking: unlike a ZeroMQ socket it may be written to by any thread and
    from a signal handler. One byte is under way at most, however many items are put.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._woken = False

    def fileno(self) -> int:
        """What to register with the poller, for reading."""
        return self._reader.fileno()

    def put(self, item: T) -> None:
        self._items.append(item)
        if not self._woken:
            self._woken = True
            # a full or closed pipe means that the reader has a byte to wake on, or is gone
            with suppress(OSError):
                self._writer.send(b"\0")

    def drain(self) -> Iterator[T]:
        """Everything that has been put so far; only for the reading thread."""
        with suppress(BlockingIOError):
            self._reader.recv(4096)
        # cleared before the items are taken: whoever puts one from here on wakes the reader again
        self._woken = False
        for _ in range(len(self._items)):
            yield self._items.popleft()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
