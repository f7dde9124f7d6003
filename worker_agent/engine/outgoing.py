"""What a stage sends, and to whom: it knows neighbours by their place in the ring, not by their sockets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from worker_agent.wire.messages import Buffer, Message


class Destination(Enum):
    """Where a message goes; the I/O thread knows the sockets."""

    CONTROLLER = auto()
    DOWNSTREAM = auto()
    FIRST = auto()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way out of a stage."""

    deployment: str
    stage: int
    to: Destination
    message: Message
    payload: tuple[Buffer, ...] = ()
