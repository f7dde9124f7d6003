"""Messages by which an agent gets weights from another agent that has them, instead of from the controller.

The controller tells the one that has them whose key may read which parts (`AdmitFetch`) and has the other one get them
(`Fetch`), which asks for them piece by piece (`ReadPart`, `PartBytes`).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from worker_agent.wire.messages.fields import CHUNK_BYTES, U63, Address, Call, Digest, Text, Z85Key

MAX_FETCHED_PARTS = 2000
MAX_FETCH_SECONDS = 60.0

_Limit = Annotated[float, Meta(gt=0, le=MAX_FETCH_SECONDS)]


class AdmitFetch(Call, tag="admit_fetch", kw_only=True, frozen=True):
    """Let the agent with this key read these parts for so many seconds; in place of what it was allowed before."""

    key: Z85Key
    digests: Annotated[tuple[Digest, ...], Meta(max_length=MAX_FETCHED_PARTS)]
    seconds: _Limit


class Fetch(Call, tag="fetch", kw_only=True, frozen=True):
    """Get these parts from the agent at this address, for so many seconds at most. Answered with `Fetched`.

    What is here already is not asked for again, so the same message goes on where the last one ended.
    """

    address: Address
    key: Z85Key
    digests: Annotated[tuple[Digest, ...], Meta(max_length=MAX_FETCHED_PARTS)]
    sizes: Annotated[tuple[U63, ...], Meta(max_length=MAX_FETCHED_PARTS)]
    seconds: _Limit


class Fetched(Call, tag="fetched", kw_only=True, frozen=True):
    """How far it came: bytes that came this time, whether all parts are whole here, and what was in the way."""

    received: U63
    complete: bool
    trouble: Text = ""


class ReadPart(Call, tag="read_part", kw_only=True, frozen=True):
    """From one agent to another: bytes `[offset, offset + length)` of a part. Answered with `PartBytes`.

    Flow control: 4 unanswered ones on a connection at most.
    """

    digest: Digest
    offset: U63
    length: Annotated[int, Meta(ge=1, le=CHUNK_BYTES)]


class PartBytes(Call, tag="part_bytes", kw_only=True, frozen=True):
    """One payload frame: the bytes from `offset` on; fewer than were asked for where the part ends. `total` has all."""

    digest: Digest
    offset: U63
    total: U63
