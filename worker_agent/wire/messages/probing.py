"""Messages by which the link from one agent to another is measured, over the sockets that steps take.

The controller tells the one end whose key may ask (`AdmitProbe`) and has the other end measure (`ProbeLink`), which
sends `Ping`s there and is answered with `Pong`s.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from worker_agent.wire.messages.fields import U32, U63, Address, Call, Seconds, Text, Z85Key

MAX_PROBE_BYTES = 64 * 1024 * 1024
"""What one measurement may send at most."""
MAX_PROBE_SECONDS = 30.0
"""How long one may take, and how long a key is let in for one."""
MAX_PING_BYTES = 1024 * 1024
"""Of one `Ping`, and so of one frame."""

ProbeOutcome = Literal[
    "measured", "name", "refused", "silent", "unreachable", "not_trusted", "wrong_key", "no_agent", "large_lost", "lost"
]
"""What came of it: figures, or how far it came. In order: the host's name is not known; nothing listens at the port;
nothing is answered at all; there is no way to the address; the other end does not let this key in; it has another key
than was announced; something else than an agent answers, or one that is frozen; short messages pass and long ones do
not; the connection stood and broke off."""

_Bytes = Annotated[int, Meta(ge=0, le=MAX_PROBE_BYTES)]
_Limit = Annotated[float, Meta(gt=0, le=MAX_PROBE_SECONDS)]


class AdmitProbe(Call, tag="admit_probe", kw_only=True, frozen=True):
    """Let the agent with this key send `Ping`s for so many seconds, of so many bytes in all."""

    key: Z85Key
    seconds: _Limit
    total_bytes: _Bytes


class ProbeLink(Call, tag="probe_link", kw_only=True, frozen=True):
    """Measure the link to the agent at this address, as a step would go there. Answered with `Probed`."""

    address: Address
    key: Z85Key
    pings: Annotated[int, Meta(ge=1, le=200)]
    total_bytes: _Bytes
    """Sent for the bandwidth, at most."""
    seconds: _Limit
    """For all of it."""


class Probed(Call, tag="probed", kw_only=True, frozen=True):
    """What was found. Without figures where it came to none."""

    outcome: ProbeOutcome
    detail: Text = ""
    """What the system or the other agent said, where that says more."""
    rtt: Seconds | None = None
    """The median round trip of a short message, seconds: encryption and both agents' own work included."""
    least_rtt: Seconds | None = None
    jitter: Seconds | None = None
    """How far one round trip is from the one before it, on average."""
    clock_offset: Annotated[float, Meta(ge=-1e12, le=1e12)] | None = None
    """By how many seconds the other machine's clock is ahead of this one's; half a round trip is what it may be off."""
    bytes_per_second: Annotated[float, Meta(ge=0, le=1e15)] | None = None
    """From here to there, with several messages on their way."""
    sent_bytes: U63 = 0
    segment_bytes: U32 | None = None
    """Of a TCP segment (MSS) on the way there; with its headers that is the MTU. None where the system does not say."""


class Ping(Call, tag="ping", kw_only=True, frozen=True):
    """From one agent to another, with 0 or 1 frames of any bytes. Answered with `Pong`."""


class Pong(Call, tag="pong", kw_only=True, frozen=True):
    """A `Ping` has come, with so many bytes, when the clock here said so many seconds since 1970."""

    received_bytes: U63
    clock: Seconds
