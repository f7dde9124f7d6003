"""What runs on a loop asks the registry without holding the loop up."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from app.errors import RegistryError
from app.registry import EventLevel, Registry
from app.runs.reader import RunReader
from tests.held_up_loops import Waits


def test_a_call_runs_in_a_thread_of_the_registry_while_the_loop_goes_on(registry: Registry) -> None:
    async def scenario() -> None:
        may_end = threading.Event()

        def work(known: Registry) -> str:
            assert may_end.wait(5.0)
            known.models.list()
            return threading.current_thread().name

        asking = asyncio.ensure_future(registry.call(work))
        await asyncio.sleep(0.05)
        may_end.set()  # by the loop, which nothing holds up
        assert (await asking).startswith("registry")

    asyncio.run(scenario())


def test_what_was_written_is_there_for_who_asks_next(registry: Registry) -> None:
    async def scenario() -> None:
        for number in range(20):
            await registry.call(lambda known, text=f"event {number}": known.events.add(EventLevel.INFO, "test", text))
            (newest,) = await registry.call(lambda known: known.events.list(limit=1))
            assert newest.message == f"event {number}"

    asyncio.run(scenario())


def test_who_is_cancelled_goes_on_when_the_work_has_ended(registry: Registry) -> None:
    async def scenario() -> None:
        begun = threading.Event()

        def slow(known: Registry) -> None:
            begun.set()
            time.sleep(0.3)
            known.events.add(EventLevel.INFO, "test", "written all the same")

        asking = asyncio.ensure_future(registry.call(slow))
        assert await asyncio.to_thread(begun.wait, 5.0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert [event.message for event in await registry.call(lambda known: known.events.list())] == [
            "written all the same"
        ]

    asyncio.run(scenario())


def test_a_closed_registry_says_so(registry: Registry) -> None:
    async def scenario() -> None:
        await asyncio.to_thread(registry.close)
        with pytest.raises(RegistryError, match="closed"):
            await registry.call(lambda known: known.models.list())

    asyncio.run(scenario())


def test_what_holds_up_a_loop_is_found(registry: Registry, waits: Waits) -> None:
    async def scenario() -> None:
        registry.models.list()
        assert waits.asked == [], "a test may: its loop has nothing else to do"
        list(RunReader(registry).select(kinds=("deployment",)))
        assert len(waits.asked) == 1 and "reader.py" in waits.asked[0]

    asyncio.run(scenario())
    waits.taken()
