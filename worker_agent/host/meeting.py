"""The agent's side of a meeting: who is spoken with, what is shown and asked in the terminal, and when it is trusted.

Pure: messages, typed lines and the time come in; answers and texts go out. `waiting.py` has the sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from worker_agent.wire.keys import key_fingerprint
from worker_agent.wire.meeting import MEETING_SECONDS, commitment_to, fresh_nonce, meeting_code, printable, spoken
from worker_agent.wire.messages import (
    OLDEST_WIRE_VERSION,
    WIRE_VERSION,
    Committed,
    Confirm,
    ControlMessage,
    Failed,
    Meet,
    Message,
    Met,
    Reveal,
    Revealed,
)
from worker_agent.wire.messages.fields import Call

REVEAL_SECONDS = 10.0
"""How long a controller that has begun a meeting may take to go on; nobody has to do anything for that."""
READ_SECONDS = 0.5
"""An answer that comes sooner was typed before the question could be read: for another meeting."""
MOST_FAILED = 5
"""Meetings in which a code was shown and that came to nothing; then the agent waits no more. Somebody who wants the
codes to be equal by chance has so many tries, one in a million each."""
_YES = {"y", "yes"}


class _Stage(Enum):
    COMMITTED = "committed"
    SHOWN = "shown"
    ASKED = "asked"


@dataclass
class _Guest:
    """The controller that is spoken with."""

    key: str
    route: bytes
    name: str
    nonce: str
    """The agent's own, for this meeting alone."""
    until: float
    stage: _Stage = _Stage.COMMITTED
    call: int = 0
    asked_at: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.name} (key {key_fingerprint(self.key)})"


@dataclass(frozen=True)
class Answer:
    """A message for one connection."""

    route: bytes
    message: ControlMessage


class Reception:
    """Meets one controller at a time.

    Args:
        agent_key: this agent's public key.
        say: shows a text in the terminal.

    Attributes:
        trusted: public key and name of the controller that was confirmed on both sides; None until then.
        failed: how many meetings came to nothing after a code was shown.
    """

    def __init__(self, agent_key: str, name: str, say: Callable[[str], None]) -> None:
        self._agent_key, self._name, self._say = agent_key, name, say
        self._guest: _Guest | None = None
        self.trusted: tuple[str, str] | None = None
        self.failed = 0

    @property
    def is_over(self) -> bool:
        return self.trusted is not None or self.failed >= MOST_FAILED

    def take(self, key: str, route: bytes, message: Message, now: float) -> list[Answer]:
        """What a message from the owner of `key` is answered with."""
        guest = self._guest
        mine = guest is not None and (guest.key, guest.route) == (key, route)
        match message:
            case Meet():
                return self._begin(key, route, message, now)
            case Reveal() if guest is not None and mine and guest.stage is _Stage.COMMITTED:
                guest.stage, guest.until = _Stage.SHOWN, now + MEETING_SECONDS
                code = meeting_code(self._agent_key, key, guest.nonce, message.nonce)
                self._say(f"\n{guest.title} wants to use this machine. Type this code there:\n\n    {spoken(code)}\n")
                return [Answer(route, Revealed(call=message.call, nonce=guest.nonce))]
            case Confirm() if guest is not None and mine and guest.stage is _Stage.SHOWN:
                guest.stage, guest.call, guest.asked_at = _Stage.ASKED, message.call, now
                self._say(
                    f"Has {guest.title} told you that the code is right? Only if you typed it there, and it said so, "
                    "answer y: it may use this machine then. [y/N]"
                )
                return []
            case Failed() if mine:
                self._end(printable(message.message))
                return []
            case Call() if not isinstance(message, Failed):
                refusal = "This agent waits to be found by a controller, and answers nothing else yet."
                return [Answer(route, Failed(call=message.call, kind="not_allowed", message=refusal))]
        return []

    def hear(self, line: str, now: float) -> list[Answer]:
        """A line that was typed. It counts as the answer to a question that could be read before."""
        guest = self._guest
        if guest is None or guest.stage is not _Stage.ASKED or now - guest.asked_at < READ_SECONDS:
            return []
        if line.strip().lower() in _YES:
            self._guest, self.trusted = None, (guest.key, guest.name)
            return [Answer(guest.route, Met(call=guest.call))]
        return self._refuse(guest, "It was refused at the agent.", "not_allowed")

    def tick(self, now: float) -> list[Answer]:
        """End a meeting that takes too long."""
        guest = self._guest
        if guest is None or now < guest.until:
            return []
        return self._refuse(guest, "Nobody confirmed it at the agent in time.", "timeout")

    def _begin(self, key: str, route: bytes, message: Meet, now: float) -> list[Answer]:
        def refused(kind: str, why: str) -> list[Answer]:
            return [Answer(route, Failed(call=message.call, kind=kind, message=why))]

        if message.oldest > WIRE_VERSION or message.newest < OLDEST_WIRE_VERSION:
            return refused("version", f"This agent speaks wire version {OLDEST_WIRE_VERSION} to {WIRE_VERSION}, the "
                           f"controller {message.oldest} to {message.newest}.")  # fmt: skip
        if self.is_over or (self._guest is not None and self._guest.key != key):
            return refused("busy", "Another controller meets this agent at the moment.")
        if self._guest is not None:  # it has begun anew; what was shown for the meeting before is void
            self._end("It begins anew.")
            if self.failed >= MOST_FAILED:
                return refused("busy", "Too many meetings came to nothing here.")
        self._guest = _Guest(key, route, printable(message.name), fresh_nonce(), now + REVEAL_SECONDS)
        commitment = commitment_to(self._guest.nonce, self._agent_key, key)
        return [Answer(route, Committed(call=message.call, name=self._name, commitment=commitment))]

    def _refuse(self, guest: _Guest, why: str, kind: str) -> list[Answer]:
        self._end(why)
        return [Answer(guest.route, Failed(call=guest.call, kind=kind, message=why))]

    def _end(self, why: str) -> None:
        guest, self._guest = self._guest, None
        if guest is not None and guest.stage is not _Stage.COMMITTED:
            self.failed += 1
            self._say(f"The meeting with {guest.title} is over: {why} This machine goes on waiting.")
