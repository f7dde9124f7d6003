"""Who is alive: a beat each second to every node, and what its answers and its connection tell.

Three signals, because one is not enough: the connection (a killed process breaks it at once), the beat (a
frozen process or a dead line leaves it unanswered), and the compute thread's progress (`progress.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from app.cluster.agent_link import AgentLink, LinkChange, LinkDown, LinkUp
from app.cluster.memory import MemoryWatch, agreement_text, difference_text
from app.cluster.node_state import NOTHING, Heard
from app.cluster.progress import is_suspect, step_limit
from app.errors import NodeError, RegistryError
from worker_agent.wire.messages import Health, HealthReport, Welcome

BEAT_SECONDS = 1.0
ENDED = "The agent was stopped."
MISSED_BEATS = 3
"""A node that has left so many beats unanswered is down."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """A beat was answered."""

    node: int
    at: datetime
    rtt: float
    """Seconds from the question to the answer."""
    report: HealthReport


@dataclass(frozen=True, slots=True)
class NodeUp:
    """The agent is there, or there again: what it sent while the link was cut is lost.

    Comes also after a cut so short that no NodeDown was sent. `restarted`: another process than last time,
    so its stages are gone.
    """

    node: int
    at: datetime
    welcome: Welcome
    restarted: bool


@dataclass(frozen=True, slots=True)
class NodeDown:
    """The agent is not there. `kind` is a NodeError's, or `stopped` when it was ended or could not be started."""

    node: int
    at: datetime
    kind: str
    reason: str
    on_purpose: bool = False
    """Whether it was ended from here: no trouble, and whoever ended it has written that down."""


@dataclass(frozen=True, slots=True)
class NodeStarting:
    """An agent of this machine is being started. Then comes NodeUp, or NodeDown when it could not be."""

    node: int
    at: datetime


@dataclass(frozen=True, slots=True)
class NodeFrozen:
    """The agent answers and its compute thread does not get on. Sent once for each step that is stuck."""

    node: int
    at: datetime
    busy_seconds: float
    limit: float

    @property
    def reason(self) -> str:
        return (
            f"The step under way has been running for {self.busy_seconds:.0f} s; "
            f"at most {self.limit:.0f} s were to be expected."
        )


@dataclass(frozen=True, slots=True)
class NodeYields:
    """The agent leaves its machine to its owner, and why; or not any more, with an empty reason."""

    node: int
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class NodeMemoryJudged:
    """What the agent's process holds is another thing than what is accounted for, or is about that again.

    Sent once for each change, after it has lasted.
    """

    node: int
    at: datetime
    differs: bool
    text: str
    """Both figures, and what to do."""


NodeEvent = NodeHealth | NodeUp | NodeStarting | NodeDown | NodeFrozen | NodeMemoryJudged | NodeYields


def heard_after(before: Heard, event: NodeEvent) -> Heard:
    """What is known of a node's agent once this has happened: the watch of it and the window's mirror both ask here."""
    match event:
        case NodeHealth(report=report):
            if before.frozen and is_suspect(report.progress):
                return before
            return Heard(alive=True, yields=bool(report.yields), reason=report.yields, gone=before.gone)
        case NodeFrozen():
            return Heard(alive=True, frozen=True, reason=event.reason, yields=before.yields, gone=before.gone)
        case NodeYields(reason=why):
            return replace(before, yields=bool(why), reason=before.reason if before.frozen else why)
        case NodeStarting():
            return replace(before, starting=True)
        case NodeUp():
            return Heard(alive=True, gone=before.gone)
        case NodeDown():
            starting = before.starting and event.kind != "stopped"
            return Heard(False, event.kind, event.reason, starting=starting, gone=before.gone)
        case NodeMemoryJudged():
            return before


RecordBeat = Callable[[int, datetime, bool], Awaitable[object]]
"""Writes down when a node was heard last, and whether it is there."""


class HealthMonitor:
    """Watches nodes and tells of them through `on_event`, which runs on the loop and must not block."""

    def __init__(
        self, record: RecordBeat, on_event: Callable[[NodeEvent], None], *, beat_seconds: float | None = None
    ) -> None:
        self._record = record
        self._on_event = on_event
        self._beat_seconds = BEAT_SECONDS if beat_seconds is None else beat_seconds
        self._watches: dict[int, _Watch] = {}

    def watch(self, node: int, link: AgentLink) -> None:
        """Begin to watch a node over its link. The link stays the caller's."""
        self._watches[node] = _Watch(node, link, self._record, self._on_event, self._beat_seconds)

    async def unwatch(self, node: int) -> None:
        watch = self._watches.pop(node, None)
        if watch is not None:
            await watch.close()

    async def close(self) -> None:
        for node in tuple(self._watches):
            await self.unwatch(node)

    def yields(self, node: int) -> bool:
        """Whether a node's owner needs it, as it said last."""
        return self.heard(node).yields

    def is_alive(self, node: int) -> bool:
        return self.heard(node).alive is True

    def not_started(self, node: int, reason: str) -> None:
        """Note that an agent was to be started and is not there."""
        if (watch := self._watches.get(node)) is not None and not watch.heard.alive:
            watch.tell(NodeDown(node, datetime.now(UTC), "stopped", reason))

    def ending(self, node: int, is_ending: bool = True) -> None:
        """Note that an agent is being ended on purpose, or after all is not: when it goes, that is no trouble."""
        if (watch := self._watches.get(node)) is not None:
            watch.is_ending = is_ending

    def ended(self, node: int) -> None:
        """Note that an agent was ended on purpose."""
        if (watch := self._watches.get(node)) is not None and not watch.heard.alive:
            watch.note_ended()

    def heard(self, node: int) -> Heard:
        """What a node's connection and beats tell now."""
        watch = self._watches.get(node)
        return watch.heard if watch is not None else Heard(alive=False, reason="The controller has no link to it.")

    def memory_problem(self, node: int) -> str:
        """Why a node's memory is not as it is accounted for, in sentences; empty when it is."""
        watch = self._watches.get(node)
        return watch.memory_problem if watch is not None and watch.heard.alive else ""

    def latest(self, node: int) -> NodeHealth | None:
        """The last beat that was answered."""
        watch = self._watches.get(node)
        return watch.latest if watch is not None else None

    def round_trips(self) -> dict[int, float]:
        """From here to each node and back, seconds, at the last beat that was answered."""
        return {node: watch.latest.rtt for node, watch in self._watches.items() if watch.latest is not None}


@dataclass
class _Watch:
    """One node's beat."""

    node: int
    link: AgentLink
    record: RecordBeat
    on_event: Callable[[NodeEvent], None]
    beat_seconds: float
    heard: Heard = NOTHING
    latest: NodeHealth | None = None
    memory_problem: str = ""
    is_ending: bool = False
    """Whether it is being ended on purpose, until it is there again."""
    _memory: MemoryWatch = field(default_factory=MemoryWatch)
    _last_seen: datetime | None = None
    _answered_at: float = 0.0
    _yielded: bool = False
    _recorded: bool | None = None

    def __post_init__(self) -> None:
        self._wake = asyncio.Event()
        self._grace: asyncio.TimerHandle | None = None
        self._stop_listening = self.link.on_change(self._on_change)
        if self.link.is_up and self.link.welcome is not None:
            self._set_up(self.link.welcome, restarted=False)
        self._task = asyncio.create_task(self._beat())

    @property
    def _patience(self) -> float:
        return MISSED_BEATS * self.beat_seconds

    async def close(self) -> None:
        self._stop_listening()
        self._stop_grace()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self.beat_seconds
            self._wake.clear()
            if self.link.is_up:
                await self._ask()
            await self._record()
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        asked = loop.time()
        try:
            report = await self.link.call(Health(call=0), seconds=self._patience)
        except NodeError as error:
            if error.kind == "timeout":
                self._set_down("timeout", f"It has left {MISSED_BEATS} health beats unanswered.")
            elif self.link.is_up:
                _log.warning("the health of node %d: %s", self.node, error)
            return
        self._last_seen = datetime.now(UTC)
        self._answered_at = loop.time()
        if not self.heard.alive and self.link.welcome is not None:
            self._set_up(self.link.welcome, restarted=False)
        health = NodeHealth(self.node, self._last_seen, loop.time() - asked, report)
        self.latest = health
        self.tell(health)
        self._judge(report)

    def tell(self, event: NodeEvent) -> None:
        """Take in what has happened, then say it."""
        self.heard = heard_after(self.heard, event)
        self.on_event(event)

    def _judge(self, report: HealthReport) -> None:
        if is_suspect(report.progress) and not self.heard.frozen:
            busy = report.progress.busy_seconds or 0.0
            limit = step_limit(report.progress.step_p99, report.progress.busy_tokens)
            self.tell(NodeFrozen(self.node, datetime.now(UTC), busy, limit))
        if bool(report.yields) != self._yielded:
            self._yielded = bool(report.yields)
            self.tell(NodeYields(self.node, datetime.now(UTC), report.yields))
        was = self._memory.differs
        if self._memory.judge(report):
            watch, held = self._memory, report.process_memory
            differs, base, believed = watch.differs, watch.base, watch.believed
            text = difference_text(base, believed, held, idle=watch.idle) if differs else agreement_text(believed, held)
            self.memory_problem = text if differs else ""
            self.tell(NodeMemoryJudged(self.node, datetime.now(UTC), differs, text))
        elif was and not self._memory.differs:  # another process, which holds nothing of that
            self.memory_problem = ""

    async def _record(self) -> None:
        """Each answer, and each change, goes into the registry."""
        active = self.heard.alive
        if active is None or (not active and self._recorded is False):
            return
        try:
            await self.record(self.node, self._last_seen or datetime.now(UTC), active)
        except RegistryError as error:
            _log.error("the heartbeat of node %d could not be written: %s", self.node, error)
            return
        self._recorded = active

    # --- the link ---

    def _on_change(self, change: LinkChange) -> None:
        match change:
            case LinkUp():
                self._set_up(change.welcome, restarted=change.restarted)
            case LinkDown() if change.trouble.kind != "lost":
                error = self.link.error()
                self._set_down(error.kind, error.message)
            case LinkDown():
                # The connection of a killed process is refused a moment later; a cut line gets its three beats.
                self._stop_grace()
                loop = asyncio.get_running_loop()
                rest = self._answered_at + self._patience - loop.time()
                self._grace = loop.call_later(max(self.beat_seconds / 2, rest), self._on_lost)

    def _on_lost(self) -> None:
        if not self.link.is_up:
            error = self.link.error()
            self._set_down(error.kind, error.message)

    def _set_up(self, welcome: Welcome, *, restarted: bool) -> None:
        self._stop_grace()
        self.is_ending = False
        self._last_seen = datetime.now(UTC)
        self._answered_at = asyncio.get_running_loop().time()
        self._wake.set()
        self.tell(NodeUp(self.node, self._last_seen, welcome, restarted))

    def _set_down(self, kind: str, reason: str) -> None:
        self._stop_grace()
        if self.heard.alive is False:
            return
        self._wake.set()
        if self.is_ending:
            self.note_ended()
            return
        self.tell(NodeDown(self.node, datetime.now(UTC), kind, reason))

    def note_ended(self) -> None:
        """It is gone, as was wanted."""
        if self.heard.trouble != "stopped":
            self.tell(NodeDown(self.node, datetime.now(UTC), "stopped", ENDED, on_purpose=True))

    def _stop_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
