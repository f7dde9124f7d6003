"""Sending parts of a model to an agent: only what it lacks, from where it left off, verified at its end.

Where the bytes come from is the caller's: a `PartReader` for each part.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.cluster.agent_link import AgentLink
from app.cluster.calls import CHUNK_TIMEOUT
from app.errors import Cancelled, NodeError
from worker_agent.wire.messages import CHUNK_BYTES, Chunk, ChunkAck, Offer, Part

WINDOW = 4
"""Unanswered chunks on one connection: the protocol's flow control."""
OFFER_COUNT = 2000
"""Parts in one offer at most."""
OFFER_TIMEOUT = 60.0
RECONNECT_SECONDS = 30.0
"""How long a transfer waits for an agent whose connection broke, unless somebody is in a hurry."""
FRUITLESS_CUTS = 3
"""After so many cuts without one more byte in between, a transfer gives up."""
SPEED_WINDOW = 5.0
"""Seconds over which the speed is measured."""


class PartReader(Protocol):
    """Reads bytes `[offset, offset + length)` of a part's content. Called in a thread; errors are passed on."""

    def __call__(self, offset: int, length: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class SendProgress:
    """How many bytes of the wanted parts an agent holds."""

    already_bytes: int
    """Before anything was sent; they count as done."""
    done_bytes: int
    total_bytes: int
    """Of all wanted parts, each counted once."""
    bytes_per_second: float


ProgressCallback = Callable[[SendProgress], None]


async def send_parts(
    link: AgentLink,
    wanted: Sequence[tuple[Part, PartReader]],
    on_progress: ProgressCallback | None = None,
    cancel: asyncio.Event | None = None,
    *,
    reconnect_seconds: float = RECONNECT_SECONDS,
    already: int | None = None,
) -> int:
    """Give the agent every part that it lacks; go on after a cut where the agent says it stopped.

    Args:
        already: bytes that it held before anything came to it, where something else came to it before.

    `on_progress` hears at least once how much the agent holds, also when there is nothing to send.

    Returns the number of content bytes that were sent, what had to be sent twice included.

    Raises:
        NodeError: `disk` (the agent lacks space), `weights` (what arrived does not match its hash), `lost` and
            the other kinds of `AgentLink.call`. What has arrived stays there for the next time.
        Cancelled: `cancel` was set.
    """
    transfer = _Transfer(link, _without_doubles(wanted), on_progress, cancel, already=already)
    async with link.sending_weights:
        fruitless = 0
        while True:
            before = transfer.acknowledged
            try:
                await transfer.run()
                return transfer.sent
            except NodeError as error:
                fruitless = fruitless + 1 if transfer.acknowledged == before else 0
                if error.kind not in ("lost", "timeout") or fruitless >= FRUITLESS_CUTS:
                    raise
                if not await link.wait_up(reconnect_seconds):
                    raise link.error() from error


def _without_doubles(wanted: Iterable[tuple[Part, PartReader]]) -> list[tuple[Part, PartReader]]:
    """Parts with equal content are one file at the agent."""
    return list({part.digest: (part, reader) for part, reader in wanted}.values())


@dataclass
class _Transfer:
    link: AgentLink
    wanted: list[tuple[Part, PartReader]]
    on_progress: ProgressCallback | None
    cancel: asyncio.Event | None
    sent: int = 0
    acknowledged: int = 0
    already: int | None = None
    held: int = 0
    """Bytes that the agent holds: what it said, and what it has acknowledged since."""
    _speed: _Speed = field(default_factory=lambda: _Speed())

    async def run(self) -> None:
        """One attempt: ask what is missing, send it."""
        self._check_cancelled()
        held = await self._offer()
        missing = [
            (part, reader, have) for (part, reader), have in zip(self.wanted, held, strict=True) if have < part.nbytes
        ]
        self.held = sum(min(have, part.nbytes) for (part, _), have in zip(self.wanted, held, strict=True))
        if self.already is None:
            self.already = self.held
        self._report()
        for part, reader, have in missing:
            await self._send(part, reader, have)

    async def _offer(self) -> list[int]:
        """For each wanted part how many bytes of it the agent holds."""
        held: list[int] = []
        for batch in _batches(self.wanted, OFFER_COUNT):
            digests = tuple(part.digest for part, _ in batch)
            sizes = tuple(part.nbytes for part, _ in batch)
            have = await self.link.call(Offer(call=0, digests=digests, sizes=sizes), seconds=OFFER_TIMEOUT)
            if len(have.held) != len(batch):
                raise self._broken(f"it answered an offer of {len(batch)} parts with {len(have.held)} figures")
            held.extend(have.held)
        return held

    async def _send(self, part: Part, reader: PartReader, offset: int) -> None:
        """The rest of one part, a window of chunks at a time. A failure cancels what is under way."""
        under_way: deque[asyncio.Task[ChunkAck]] = deque()
        last: ChunkAck | None = None
        try:
            while offset < part.nbytes or under_way:
                self._check_cancelled()
                if offset < part.nbytes and len(under_way) < WINDOW:
                    content = await asyncio.to_thread(reader, offset, min(CHUNK_BYTES, part.nbytes - offset))
                    if not content:
                        raise self._broken(f"the source of {part.kind} {part.index} ends at byte {offset}")
                    under_way.append(asyncio.create_task(self._send_chunk(part, offset, content)))
                    offset += len(content)
                if under_way and (under_way[0].done() or len(under_way) == WINDOW or offset == part.nbytes):
                    last = await under_way[0]
                    under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        if last is None or not last.complete:
            raise NodeError(
                f"{self.link.node}: {part.kind} {part.index} was sent whole and is not complete there.",
                "Try again; if it goes on, the model's files have changed: add the model again.",
                kind="weights",
                node=self.link.node,
            )

    async def _send_chunk(self, part: Part, offset: int, content: bytes) -> ChunkAck:
        self.sent += len(content)
        chunk = Chunk(call=0, digest=part.digest, offset=offset, total=part.nbytes)
        answer = await self.link.call(chunk, (content,), seconds=CHUNK_TIMEOUT)
        self.acknowledged += len(content)
        self.held += len(content)
        self._report()
        return answer

    def _report(self) -> None:
        speed = self._speed.at(asyncio.get_running_loop().time(), self.acknowledged)
        if self.on_progress is not None:
            total = sum(part.nbytes for part, _ in self.wanted)
            self.on_progress(SendProgress(self.already or 0, self.held, total, speed))

    def _check_cancelled(self) -> None:
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled(f"Sending weights to {self.link.node} was cancelled.")

    def _broken(self, why: str) -> NodeError:
        return NodeError(f"Sending weights to {self.link.node} failed: {why}.", kind="weights", node=self.link.node)


@dataclass
class _Speed:
    """Bytes per second over the last few seconds."""

    _points: deque[tuple[float, int]] = field(default_factory=deque)

    def at(self, now: float, done: int) -> float:
        self._points.append((now, done))
        while len(self._points) > 2 and self._points[0][0] < now - SPEED_WINDOW:
            self._points.popleft()
        then, before = self._points[0]
        return (done - before) / (now - then) if now > then else 0.0


def _batches(wanted: Sequence[tuple[Part, PartReader]], count: int) -> Iterable[Sequence[tuple[Part, PartReader]]]:
    for start in range(0, len(wanted), count):
        yield wanted[start : start + count]
