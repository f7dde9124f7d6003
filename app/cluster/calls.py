"""What an agent may be asked, what it answers with, and how long that may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from worker_agent.wire.messages import (
    AdmitFetch,
    AdmitProbe,
    Cancel,
    CatchUp,
    CaughtUp,
    Chunk,
    ChunkAck,
    Constrain,
    Drain,
    Halt,
    Halted,
    Have,
    Health,
    HealthReport,
    Hello,
    Link,
    Message,
    Offer,
    Probed,
    ProbeLink,
    Recompute,
    Shutdown,
    Start,
    Unload,
    Welcome,
    WriteJournal,
    WriteStates,
)
from worker_agent.wire.messages.fields import Call

CONNECT_TIMEOUT = 10.0
CALL_TIMEOUT = 10.0
CHUNK_TIMEOUT = 60.0
"""Seconds for the answer to a chunk: the last one waits for the whole part to be hashed."""
LOAD_SILENCE = 600.0
"""Seconds between two signs of progress of a load; the health beat tells sooner when the agent is gone."""
HELLO_TIMEOUT = 5.0
LOG_TIMEOUT = 60.0
"""Seconds for a piece of the log: it is read behind the parts that wait for the disk."""

Answer = tuple[Message, Sequence[bytes]]
"""With its payload frames."""
PlainCall = (
    Link
    | Unload
    | Drain
    | Shutdown
    | Start
    | Cancel
    | Constrain
    | Recompute
    | WriteStates
    | WriteJournal
    | AdmitProbe
    | AdmitFetch
)
"""Answered by Done."""
Heavy = Offer | Chunk | Recompute | WriteStates | WriteJournal
"""Goes over the connection where it holds up no beat."""

ANSWERS: dict[type[Call], type[Call]] = {
    Hello: Welcome, Health: HealthReport, Offer: Have, Chunk: ChunkAck, CatchUp: CaughtUp, Halt: Halted,
    ProbeLink: Probed,
}  # fmt: skip
"""Everything else that is asked is answered by Done."""


@dataclass(slots=True)
class PendingCall:
    """A call that waits for its answer."""

    channel: object
    """The connection over which it was asked."""
    answer: asyncio.Future[Answer]
    deadline: asyncio.Timeout
    seconds: float
    on_progress: Callable[[int, int], None] | None


def discard(future: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more: cancel it, and let an error that came at the same moment go unreported."""
    if not future.cancel() and not future.cancelled():
        future.exception()
