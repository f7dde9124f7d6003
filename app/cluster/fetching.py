"""Having an agent get the weights that it lacks from other agents that have them, rather than from the controller.

The controller asks who has what, tells one agent whose key may read which parts, and the other one where to get them.
Whatever does not come this way is what `weights.send_parts` finds missing, and sends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.cluster.agent_link import AgentLink
from app.cluster.calls import CHUNK_TIMEOUT
from app.cluster.weights import OFFER_COUNT, OFFER_TIMEOUT
from app.errors import Cancelled, NodeError
from worker_agent.wire.messages import AdmitFetch, Fetch, Fetched, Offer, Part

log = logging.getLogger(__name__)

LEAST_BYTES = 4 * 2**20
"""Less than that the controller sends at once: it is there before two agents have found each other."""
ASK_SECONDS = 2.0
"""How long an agent may take to say what it has; one that is busy is passed over."""
TURN_SECONDS = 2.0
"""How long parts are fetched before it is told how far they are."""
ADMITTED_SECONDS = 30.0
"""Longer than a turn with a connection that is slow to be made."""
FRUITLESS_TURNS = 2


@dataclass(frozen=True)
class Holder:
    """An agent as others reach it."""

    link: AgentLink
    address: str
    key: str


@dataclass(frozen=True)
class Received:
    """What came from other agents: bytes, and how many of the wanted parts' bytes had been there before, if that was
    asked."""

    bytes: int = 0
    already: int | None = None


async def fetch_parts(
    target: Holder,
    others: Sequence[Holder],
    wanted: Sequence[Part],
    on_progress: Callable[[int, int], None],
    cancel: asyncio.Event,
) -> Received:
    """Have an agent get what it lacks of these parts from others that have them whole.

    Args:
        wanted: each once.
        on_progress: told how many of the wanted bytes the agent holds, and how many it had held before.

    Raises Cancelled. Whatever else goes wrong leaves the parts to the controller.
    """
    wanted = wanted[:OFFER_COUNT]
    if not others:
        return Received()
    async with target.link.sending_weights:
        try:
            return await _fetch_all(target, others, wanted, on_progress, cancel)
        except NodeError as error:  # who sends to it then meets the same, and may have more patience
            log.info("%s gets no weights from others: %s", target.link.node, error)
            return Received()


async def _fetch_all(
    target: Holder,
    others: Sequence[Holder],
    wanted: Sequence[Part],
    on_progress: Callable[[int, int], None],
    cancel: asyncio.Event,
) -> Received:
    held = await _held(target.link, wanted, [part.nbytes for part in wanted], OFFER_TIMEOUT)
    already = sum(min(have, part.nbytes) for have, part in zip(held, wanted, strict=True))
    missing = [part for have, part in zip(held, wanted, strict=True) if have < part.nbytes]
    received = 0
    if sum(part.nbytes for part in wanted) - already < LEAST_BYTES:
        return Received(0, already)

    def came(count: int) -> None:
        nonlocal received
        received += count
        on_progress(already + received, already)

    for holder, parts in await _shared_out(missing, others):
        trouble = await _fetch(target, holder, parts, came, cancel)
        if trouble:
            log.warning(
                "%s could not get weights from %s, so the controller sends them: %s",
                target.link.node,
                holder.link.node,
                trouble,
            )
    return Received(received, already)


async def _shared_out(missing: Sequence[Part], others: Sequence[Holder]) -> list[tuple[Holder, list[Part]]]:
    """Who is asked for which parts: whoever has most of them comes first."""
    found = await asyncio.gather(*(_whole(other.link, missing) for other in others))
    left = {part.digest: part for part in missing}
    shared = []
    for holder, has in sorted(zip(others, found, strict=True), key=lambda each: -sum(p.nbytes for p in each[1])):
        parts = [part for part in has if left.pop(part.digest, None) is not None]
        if parts:
            shared.append((holder, parts))
    return shared


async def _whole(link: AgentLink, parts: Sequence[Part]) -> list[Part]:
    """Those of the parts that an agent has whole; none, where it does not say so in time."""
    try:
        # Without sizes: it is asked what it has, and is to make room for nothing.
        held = await _held(link, parts, [0] * len(parts), ASK_SECONDS)
    except NodeError as error:
        log.info("%s is not asked for weights: %s", link.node, error)
        return []
    return [part for have, part in zip(held, parts, strict=True) if have == part.nbytes]


async def _held(link: AgentLink, parts: Sequence[Part], sizes: Sequence[int], seconds: float) -> Sequence[int]:
    offer = Offer(call=0, digests=tuple(part.digest for part in parts), sizes=tuple(sizes))
    held = (await link.call(offer, seconds=seconds)).held
    if len(held) != len(parts):
        raise NodeError(f"{link.node} answered an offer of {len(parts)} parts with {len(held)} figures.", kind="wire")
    return held


async def _fetch(
    target: Holder, holder: Holder, parts: Sequence[Part], came: Callable[[int], None], cancel: asyncio.Event
) -> str:
    """Get parts from one agent, a turn at a time; what was in the way, or nothing."""
    digests = tuple(part.digest for part in parts)
    admit = AdmitFetch(call=0, key=target.key, digests=digests, seconds=ADMITTED_SECONDS)
    fetch = Fetch(
        call=0,
        address=holder.address,
        key=holder.key,
        digests=digests,
        sizes=tuple(part.nbytes for part in parts),
        seconds=TURN_SECONDS,
    )
    fruitless = 0
    while True:
        if cancel.is_set():
            raise Cancelled(f"Sending weights to {target.link.node} was cancelled.")
        try:
            await holder.link.call(admit)
            turn, _ = await target.link.read(fetch, Fetched, seconds=CHUNK_TIMEOUT)
        except NodeError as error:
            return error.message
        came(turn.received)
        if turn.complete:
            return ""
        fruitless = 0 if turn.received else fruitless + 1
        if fruitless == FRUITLESS_TURNS or (turn.trouble and not turn.received):
            return turn.trouble or "Nothing came from there."
