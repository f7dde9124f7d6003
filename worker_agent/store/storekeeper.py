"""The thread that answers Offer, Chunk, ReadPart and ReadLog, so that the I/O thread never waits for disk or hash."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from worker_agent.store.shard_store import ShardStore
from worker_agent.wire.errors import AgentError
from worker_agent.wire.messages import (
    Buffer,
    Chunk,
    ChunkAck,
    ControlMessage,
    Failed,
    Have,
    LogText,
    Offer,
    PartBytes,
    ReadLog,
    ReadPart,
)

log = logging.getLogger(__name__)

MAX_WAITING = 64
"""Chunks of 4 MiB that may wait for the disk; a sender keeps at most 4 unanswered."""

MOST_BYTES = 2**63 - 1
"""As large a number as a message holds."""

Question = Offer | Chunk | ReadPart | ReadLog


class Reply(Protocol):
    """Answers one call; any thread may use it."""

    def __call__(self, message: ControlMessage, *payload: Buffer) -> None: ...


class Storekeeper(threading.Thread):
    """Works off one queue in order; `reply` is called in this thread.

    Args:
        read_log: gives the end of the agent's log, so many bytes at most; it may wait for the disk.
    """

    def __init__(self, store: ShardStore, read_log: Callable[[int], bytes]) -> None:
        super().__init__(name="storekeeper", daemon=True)
        self._store, self._read_log = store, read_log
        self._queue: queue.Queue[tuple[Question, Sequence[Buffer], Reply] | None] = queue.Queue()

    def submit(self, message: Question, payload: Sequence[Buffer], reply: Reply) -> None:
        """Answer a message as soon as the disk allows. Never waits."""
        if self._queue.qsize() >= MAX_WAITING:
            reply(Failed(call=message.call, kind="wire", message="Too many chunks came unanswered; send 4 at most."))
            return
        self._queue.put((message, payload, reply))

    def stop(self) -> None:
        """End after the message under way; what waits is not answered."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put(None)

    def run(self) -> None:
        while (job := self._queue.get()) is not None:
            message, payload, reply = job
            try:
                if isinstance(message, ReadLog):
                    reply(LogText(call=message.call), self._read_log(message.max_bytes))
                elif isinstance(message, ReadPart):
                    content, total = self._store.read(message.digest, message.offset, message.length)
                    found = PartBytes(call=message.call, digest=message.digest, offset=message.offset, total=total)
                    reply(found, content)
                else:
                    reply(self._answer(message, payload))
            except AgentError as error:
                log.warning("%s: %s", type(message).__name__, error)
                reply(failed(message.call, error))
            # a message handler begins here; whatever went wrong, the sender is told and the next one is served
            except Exception as error:
                log.exception("%s could not be handled", type(message).__name__)
                reply(failed(message.call, error))
        self._store.close()

    def _answer(self, message: Offer | Chunk, payload: Sequence[Buffer]) -> ControlMessage:
        if isinstance(message, Offer):
            held = self._store.offer(message.digests, message.sizes)
            return Have(call=message.call, held=held, disk_free=self._store.disk_free)
        received = self._store.write(message.digest, message.offset, message.total, payload[0])
        return ChunkAck(call=message.call, digest=message.digest, received=received.size, complete=received.complete)


def failed(call: int, error: BaseException) -> Failed:
    """The answer that says what went wrong; anything that is no AgentError is a bug of this agent."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return Failed(call=call, kind="memory", message=f"The node ran out of memory: {error}"[:8000])
    if not isinstance(error, AgentError):
        sentence = f"The agent failed, see its agent.log: {type(error).__name__}: {error}"
        return Failed(call=call, kind="internal", message=sentence[:8000])
    # what was asked for may be more in all than a message can say
    needed, free = (min(max(0, getattr(error, name, 0)), MOST_BYTES) for name in ("needed", "free"))
    return Failed(call=call, kind=error.kind, message=str(error)[:8000], needed=needed, free=free)
