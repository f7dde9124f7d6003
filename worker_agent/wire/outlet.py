"""What waits to be sent to one destination, when it cannot take more at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import zmq

from worker_agent.wire.messages import Buffer

MAX_WAITING_MESSAGES = 256
MAX_WAITING_BYTES = 128 * 1024 * 1024
ZERO_COPY_BYTES = 64 * 1024
"""From this size on libzmq takes the bytes where they are; for less, copying them is cheaper."""

Frames = Sequence[Buffer]


class Outlet:
    """A bounded queue before a socket that never makes the I/O thread wait.

    Args:
        send: sends one message at once or raises zmq.Again.
    """

    def __init__(self, send: Callable[[Frames], None]) -> None:
        self._send = send
        self._waiting: deque[Frames] = deque()
        self._bytes = 0

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def push(self, frames: Frames) -> bool:
        """Send, or queue behind what waits. False when the queue is full: the message is not taken."""
        if not self._waiting:
            try:
                self._send(frames)
                return True
            except zmq.Again:
                pass
        size = sum(len(frame) for frame in frames)
        if len(self._waiting) >= MAX_WAITING_MESSAGES or self._bytes + size > MAX_WAITING_BYTES:
            return False
        self._waiting.append(frames)
        self._bytes += size
        return True

    def flush(self) -> None:
        """Send of what waits as much as can be."""
        while self._waiting:
            try:
                self._send(self._waiting[0])
            except zmq.Again:
                return
            self._bytes -= sum(len(frame) for frame in self._waiting.popleft())


def send_frames(socket: zmq.Socket[bytes], frames: Frames) -> None:
    """Send a message without waiting. Raises zmq.Again before its first byte, or not at all.

    Only immutable bytes are handed over without a copy: libzmq may hold them long after this returns.
    """
    last = len(frames) - 1
    for index, frame in enumerate(frames):
        copy = not isinstance(frame, bytes) or len(frame) < ZERO_COPY_BYTES
        socket.send(frame, zmq.NOBLOCK | (zmq.SNDMORE if index < last else 0), copy=copy)
