"""What an agent may be asked, what it answers with, and how long that may take."""

from __future__ import annotations

from worker_agent.wire.messages import (
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
    Offer,
    Shutdown,
    Start,
    Unload,
    Welcome,
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

PlainCall = Link | Unload | Drain | Shutdown | Start | Cancel | Constrain
"""Answered by Done."""

ANSWERS: dict[type[Call], type[Call]] = {
    Hello: Welcome, Health: HealthReport, Offer: Have, Chunk: ChunkAck, CatchUp: CaughtUp, Halt: Halted,
}  # fmt: skip
"""Everything else that is asked is answered by Done."""
