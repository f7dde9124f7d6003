"""Health: who is alive, who is not, who is back, and who hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from app.cluster.agent_link import AgentLink
from app.cluster.health import HealthMonitor, NodeDown, NodeEvent, NodeFrozen, NodeHealth, NodeUp
from app.cluster.node_state import Heard
from tests.cluster.small_agent import Bench, SmallAgent, bench
from worker_agent.wire.messages import Health, Progress

E = TypeVar("E", bound=NodeEvent)


@dataclass
class Notebook:
    """Keeps heartbeats, as the registry's nodes do."""

    beats: list[tuple[datetime, bool]] = field(default_factory=list)

    async def heartbeat(self, id: int, at: datetime, active: bool) -> bool:
        self.beats.append((at, active))
        return True

    @property
    def active(self) -> list[bool]:
        """The states in the order they came, repeats left out."""
        states = [active for _, active in self.beats]
        return [state for index, state in enumerate(states) if index == 0 or states[index - 1] != state]


@dataclass
class Watched:
    agent: SmallAgent
    link: AgentLink
    monitor: HealthMonitor
    notebook: Notebook
    events: list[NodeEvent]

    async def next(self, kind: type[E], seconds: float = 10.0) -> E:
        """The first event of this kind; those before it are taken off the list."""
        async with asyncio.timeout(seconds):
            while True:
                while self.events:
                    event = self.events.pop(0)
                    if isinstance(event, kind):
                        return event
                await asyncio.sleep(0.01)


@asynccontextmanager
async def watched(beat_seconds: float = 0.1) -> AsyncIterator[Watched]:
    b: Bench
    async with bench() as b:
        events: list[NodeEvent] = []
        notebook = Notebook()
        monitor = HealthMonitor(notebook.heartbeat, events.append, beat_seconds=beat_seconds)
        link = b.link()
        link.open()
        monitor.watch(1, link)
        try:
            yield Watched(b.agent, link, monitor, notebook, events)
        finally:
            await monitor.close()
            await link.close()


def test_beats_are_answered_noted_and_kept() -> None:
    async def scenario() -> None:
        async with watched() as w:
            up = await w.next(NodeUp)
            assert up.welcome.hostname == "box" and not up.restarted
            for _ in range(3):
                health = await w.next(NodeHealth)
            assert 0 < health.rtt < 1 and health.report.boot == "boot1"
            assert w.monitor.latest(1) is health and w.monitor.heard(1) == Heard(alive=True)
            assert w.monitor.is_alive(1) and w.notebook.active == [True]

    asyncio.run(scenario())


def test_a_killed_agent_is_noticed_before_its_beats_are_missed() -> None:
    async def scenario() -> None:
        async with watched(beat_seconds=1.0) as w:
            await w.next(NodeHealth)
            killed = time.monotonic()
            await w.agent.stop_listening()
            down = await w.next(NodeDown)
            assert down.kind == "refused" and time.monotonic() - killed < 3.0
            assert not w.monitor.is_alive(1)

    asyncio.run(scenario())


def test_an_agent_that_is_ended_on_purpose_is_stopped_and_told_of_once_whenever_it_goes() -> None:
    async def scenario() -> None:
        async with watched() as w:
            for seen_first in (True, False):
                await w.next(NodeHealth)
                w.monitor.ending(1)
                await w.agent.stop_listening()
                if seen_first:
                    down = await w.next(NodeDown)
                    w.monitor.ended(1)
                else:
                    w.monitor.ended(1)  # its end has not been noticed yet
                    down = await w.next(NodeDown)
                assert (down.kind, down.on_purpose) == ("stopped", True)
                assert w.monitor.heard(1) == Heard(alive=False, trouble="stopped", reason="The agent was stopped.")
                w.agent.listen_again()
                await w.next(NodeUp)
            w.monitor.ending(1)
            w.monitor.ending(1, False)  # it could not be ended after all
            await w.agent.stop_listening()
            assert not (await w.next(NodeDown)).on_purpose

    asyncio.run(scenario())


def test_an_agent_that_falls_silent_is_down_and_up_again_when_it_answers() -> None:
    async def scenario() -> None:
        async with watched() as w:
            await w.next(NodeHealth)
            w.agent.silent_on.add(Health)
            down = await w.next(NodeDown)
            assert down.kind == "timeout" and "unanswered" in down.reason
            w.agent.silent_on.clear()
            assert not (await w.next(NodeUp)).restarted
            await w.next(NodeHealth)
            async with asyncio.timeout(5):
                while w.notebook.active != [True, False, True]:
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_restarted_agent_is_reported_as_such() -> None:
    async def scenario() -> None:
        async with watched() as w:
            await w.next(NodeHealth)
            await w.agent.stop_listening()
            await w.next(NodeDown)
            w.agent.listen_again("boot2")
            assert (await w.next(NodeUp)).restarted

    asyncio.run(scenario())


def test_a_node_that_is_away_from_the_start_is_down() -> None:
    async def scenario() -> None:
        async with bench() as b:
            events: list[NodeEvent] = []
            notebook = Notebook()
            monitor = HealthMonitor(notebook.heartbeat, events.append, beat_seconds=0.1)
            link = b.link(address="tcp://127.0.0.1:1")
            link.open()
            monitor.watch(1, link)
            async with asyncio.timeout(5):
                while notebook.active != [False]:
                    await asyncio.sleep(0.01)
            assert [type(event) for event in events] == [NodeDown]
            await monitor.close()
            await link.close()

    asyncio.run(scenario())


def test_a_step_that_hangs_is_told_once_and_again_for_the_next_one() -> None:
    async def scenario() -> None:
        async with watched() as w:
            await w.next(NodeHealth)
            for busy in (11.0, 25.0):
                w.agent.progress = Progress(steps_done=5, busy_seconds=busy, busy_tokens=1, step_p99=0.1)
                frozen = await w.next(NodeFrozen)
                assert frozen.busy_seconds == busy and frozen.limit == 10.0
                for _ in range(3):
                    await w.next(NodeHealth)
                assert not any(isinstance(event, NodeFrozen) for event in w.events)
                w.agent.progress = Progress(steps_done=6, busy_seconds=None, busy_tokens=0, step_p99=0.1)
                for _ in range(3):
                    await w.next(NodeHealth)

    asyncio.run(scenario())
