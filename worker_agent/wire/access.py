"""Which key may ask an agent for what.

Controllers may do everything. Another agent may only send what a controller has announced in a Load: steps
for the stage whose upstream it is, and tokens for the first stage whose ring it closes. One whose link here is measured
may send pings, for the seconds and of the bytes that a controller has said; one that needs weights may read the parts
that a controller has named, for as long as it has said.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from worker_agent.wire.errors import NotAllowed
from worker_agent.wire.keys import TrustedControllers
from worker_agent.wire.messages import Message, Ping, ReadPart, Step, Tokens

_FIRST_STAGE = 0


@dataclass(frozen=True, slots=True)
class _Announced:
    upstream: str | None
    ring: str | None


@dataclass(slots=True)
class _Probing:
    until: float
    """By the monotonic clock."""
    bytes_left: int


@dataclass(frozen=True, slots=True)
class _Fetching:
    until: float
    """By the monotonic clock."""
    digests: frozenset[str]


class Access:
    """The rules, and the peers that they hold for. Any thread may ask."""

    def __init__(self, controllers: TrustedControllers) -> None:
        self._controllers = controllers
        self._lock = threading.Lock()
        self._stages: dict[tuple[str, int], _Announced] = {}
        self._peers: frozenset[str] = frozenset()
        self._probing: dict[str, _Probing] = {}
        self._fetching: dict[str, _Fetching] = {}

    def announce(self, deployment: str, stage: int, upstream: str | None, ring: str | None) -> None:
        """Let a stage's neighbours in; a later call for the same stage replaces the earlier one."""
        with self._lock:
            self._stages[deployment, stage] = _Announced(upstream, ring)
            self._peers = self._all_peers()

    def retire(self, deployment: str, stage: int) -> None:
        """The stage is gone, and with it what its neighbours may do."""
        with self._lock:
            self._stages.pop((deployment, stage), None)
            self._peers = self._all_peers()

    def admit_probe(self, key: str, seconds: float, total_bytes: int) -> None:
        """Let the owner of `key` send pings for so long, of so many bytes; in place of what it was allowed before."""
        now = time.monotonic()
        with self._lock:
            self._probing = {known: each for known, each in self._probing.items() if each.until > now}
            self._probing[key] = _Probing(now + seconds, total_bytes)

    def admit_fetch(self, key: str, digests: Iterable[str], seconds: float) -> None:
        """Let the owner of `key` read these parts for so long; in place of what it was allowed before."""
        now = time.monotonic()
        with self._lock:
            self._fetching = {known: each for known, each in self._fetching.items() if each.until > now}
            self._fetching[key] = _Fetching(now + seconds, frozenset(digests))

    def take_probe_bytes(self, key: str, count: int) -> None:
        """Count what came with a ping. Raises NotAllowed for more than was admitted; a controller may send any."""
        if self.is_controller(key):
            return
        with self._lock:
            probing = self._probing.get(key)
            if probing is None or probing.bytes_left < count:
                raise NotAllowed(f"the key {key} has sent more pings than a controller has admitted")
            probing.bytes_left -= count

    def admits(self, key: str) -> bool:
        """Whether a key may connect at all."""
        self._controllers.refresh()
        return self.is_controller(key) or key in self._peers or self._may_ping(key) or bool(self._readable(key))

    def is_controller(self, key: str) -> bool:
        return key in self._controllers

    def check(self, key: str, message: Message) -> None:
        """Raises NotAllowed unless the owner of `key` may send `message`."""
        if key in self._controllers:
            return
        match message:
            case Step():
                announced = self._stages.get((message.deployment, message.stage))
                if announced is not None and announced.upstream == key:
                    return
            case Tokens():
                announced = self._stages.get((message.deployment, _FIRST_STAGE))
                if announced is not None and announced.ring == key:
                    return
            case Ping() if self._may_ping(key):
                return
            case ReadPart() if message.digest in self._readable(key):
                return
        raise NotAllowed(f"the key {key} may not send a {type(message).__name__} here")

    def _may_ping(self, key: str) -> bool:
        probing = self._probing.get(key)
        return probing is not None and time.monotonic() < probing.until

    def _readable(self, key: str) -> frozenset[str]:
        fetching = self._fetching.get(key)
        return fetching.digests if fetching is not None and time.monotonic() < fetching.until else frozenset()

    def _all_peers(self) -> frozenset[str]:
        keys = (key for announced in self._stages.values() for key in (announced.upstream, announced.ring))
        return frozenset(key for key in keys if key is not None)
