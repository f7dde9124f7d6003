"""A stage's place in the ring: order, epochs, and what is kept until a step has come round. A pure state machine.

No clock, no sockets, no tensors: times come in, and what a step holds or has brought is of no interest here.

| what arrives | verdict |
| --- | --- |
| another plan or epoch than the stage has (of a newer one the Link has not come), or after a fault | DROPPED |
| a step number that was run already | AGAIN: send once more what it brought |
| one that waits for its turn | WAITING: nothing is to be done |
| another boot id of the sender | RESTARTED: the stage before was restarted and has forgotten its caches |
| a step number further on than the next | DROPPED: one was lost; the sender repeats what is not answered, in order |
| the next one | TAKEN: it waits for its turn |
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

from worker_agent.wire.messages import Piece, Tokens

Given = TypeVar("Given")
"""A step that comes in."""
Sent = TypeVar("Sent")
"""A message that goes out."""

RESEND_SECONDS = 2.0
"""A step that has not come round after this long, or 8 times the slowest recent round, is sent once more."""


class Verdict(Enum):
    TAKEN = auto()
    WAITING = auto()
    AGAIN = auto()
    DROPPED = auto()
    RESTARTED = auto()


@dataclass(frozen=True, slots=True)
class Arrival(Generic[Given]):
    """A step that waits for its turn."""

    number: int
    given: Given
    at: float


@dataclass(slots=True)
class _Unanswered(Generic[Sent]):
    message: Sent
    at: float


class RingPlace(Generic[Given, Sent]):
    """One stage, within one plan, over its epochs.

    Args:
        epoch: what it was loaded with; it runs nothing before the first `link`.
    """

    def __init__(self, plan: str, epoch: int) -> None:
        self.plan, self.epoch = plan, epoch
        self.is_linked = False
        self.is_broken = False
        """A step failed, or another stage was lost; nothing runs until the next `link`."""
        self.dropped = 0
        """Messages that came too late, too early, or for nobody."""
        self._rounds: deque[float] = deque(maxlen=100)
        self._forget()

    def _forget(self) -> None:
        self._boot: str | None = None
        self._last = self._run = 0
        self._arrivals: deque[Arrival[Given]] = deque()
        self._brought: OrderedDict[int, tuple[Sent, ...]] = OrderedDict()
        self._unanswered: OrderedDict[int, _Unanswered[Sent]] = OrderedDict()

    @property
    def runs(self) -> bool:
        return self.is_linked and not self.is_broken

    def link(self, epoch: int) -> None:
        """Begin a new epoch; what was before is forgotten."""
        self.epoch, self.is_linked, self.is_broken = epoch, True, False
        self._forget()

    def fail(self) -> None:
        """A step failed, or the stage is halted: nothing runs, and nothing is sent again."""
        self.is_broken = True
        self._arrivals.clear()
        self._unanswered.clear()

    # --- steps of the stage before ---

    def arrived(self, plan: str, epoch: int, boot: str, number: int, given: Given, at: float) -> Verdict:
        """A step has come; what to do about it. `at` is when it came off the wire: it waits from then on."""
        verdict = self._judge(plan, epoch, boot, number)
        if verdict is Verdict.TAKEN:
            self._boot, self._last = boot, number
            self._arrivals.append(Arrival(number, given, at))
        elif verdict is Verdict.DROPPED:
            self.dropped += 1
        return verdict

    def _judge(self, plan: str, epoch: int, boot: str, number: int) -> Verdict:
        if not self.runs or plan != self.plan or epoch != self.epoch:
            return Verdict.DROPPED
        if self._boot is not None and boot != self._boot:
            return Verdict.RESTARTED
        if number <= self._run:
            return Verdict.AGAIN
        if number <= self._last:
            return Verdict.WAITING
        return Verdict.TAKEN if number == self._last + 1 else Verdict.DROPPED

    @property
    def has_waiting(self) -> bool:
        return bool(self._arrivals)

    def take(self) -> Arrival[Given] | None:
        """The step whose turn it is; it counts as run from now on."""
        if not self.runs or not self._arrivals:
            return None
        arrival = self._arrivals.popleft()
        self._run = arrival.number
        return arrival

    def brought(self, number: int, messages: tuple[Sent, ...], oldest: int) -> None:
        """Keep what a step brought for as long as it may be asked for again: until the first stage has seen it.

        Args:
            oldest: the oldest step that has not come round there.
        """
        self._brought[number] = messages
        for old in [each for each in self._brought if each < oldest]:
            del self._brought[old]

    def again(self, number: int) -> tuple[Sent, ...]:
        """What a step has brought; nothing if it is still computed, or has come round."""
        return self._brought.get(number, ())

    # --- steps of the first stage ---

    def oldest(self, default: int) -> int:
        """The oldest step that has not come round."""
        return next(iter(self._unanswered), default)

    @property
    def under_way(self) -> int:
        """Steps that have not come round."""
        return len(self._unanswered)

    def sent(self, number: int, message: Sent, at: float) -> None:
        """A step of this stage is on its way."""
        self._unanswered[number] = _Unanswered(message, at)

    def came_round(self, epoch: int, number: int, at: float) -> bool | None:
        """What a step brought has come back: whether that was awaited. None if it is of another epoch."""
        if not self.is_linked or epoch != self.epoch:
            self.dropped += 1
            return None
        found = self._unanswered.pop(number, None)
        if found is not None:
            self._rounds.append(at - found.at)
        return found is not None

    def overdue(self, now: float) -> tuple[Sent, ...]:
        """What has to be sent once more, in order: everything, if the oldest has not come round for too long."""
        if not self._unanswered:
            return ()
        patience = max(RESEND_SECONDS, 8 * max(self._rounds, default=0.0))
        if now - next(iter(self._unanswered.values())).at < patience:
            return ()
        for each in self._unanswered.values():
            each.at = now
        return tuple(each.message for each in self._unanswered.values())


class Waits:
    """Since when each sequence of the first stage could go on, but for others."""

    def __init__(self) -> None:
        self._ready: dict[int, float] = {}

    def begin(self, sequence: int, at: float) -> None:
        self._ready[sequence] = at

    def end(self, sequence: int) -> None:
        self._ready.pop(sequence, None)

    def clear(self) -> None:
        self._ready.clear()

    def of(self, pieces: Iterable[Piece], over: Iterable[int], now: float) -> float:
        """How long all that is in a step could have gone on, but for others.

        The shortest wait of its sequences: a step has one figure, and no token may have waited longer than it took.

        Args:
            over: sequences that end with this step.
        """
        for number in over:
            self.end(number)
        waits = [now - self._ready.get(piece.sequence, now) for piece in pieces]
        return max(0.0, min(waits, default=0.0))

    def computed(self, pieces: Iterable[Piece], now: float) -> None:
        """The next chunk of a prompt need not wait until this one has come round."""
        for piece in pieces:
            if piece.sequence in self._ready:
                self._ready[piece.sequence] = now

    def came_round(self, message: Tokens, at: float) -> None:
        """What has come round can go into the next step from then on."""
        for number in (*(token.sequence for token in message.tokens), *(number for number, _ in message.prefilled)):
            if number in self._ready:
                self._ready[number] = at
