"""Calls over a link: answers find their callers, and none waits for an answer that cannot come."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.errors import NodeError
from tests.cluster.small_agent import bench
from worker_agent.wire.messages import Cancel, Drain, Failed, Health, HealthReport, Load, Loaded, Token, Tokens

LOAD = Load(
    call=0, deployment="d", plan="p", epoch=1, stage=0, stages=1, start=0, end=2, model="m", dtype="float32",
    kv_tokens=100, max_context=100, max_sequences=4, prefill_chunk=64, upstream_key=None, ring_key=None,
)  # fmt: skip


def test_answers_that_come_at_once_find_their_callers() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            b.agent.answers[Cancel] = Failed(call=0, kind="unknown_stage", message="No such stage.")
            calls = [link.call(Health(call=0)) for _ in range(20)]
            cancelled = link.call(Cancel(call=0, deployment="d", epoch=1, sequence=1))
            *reports, failure = await asyncio.gather(*calls, cancelled, return_exceptions=True)
            assert all(isinstance(report, HealthReport) for report in reports)
            assert isinstance(failure, NodeError) and failure.kind == "unknown_stage"
            await link.close()

    asyncio.run(scenario())


def test_a_lack_of_memory_is_told_in_figures() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            b.agent.answers[Load] = Failed(
                call=0, kind="memory", message="Layers 0 to 1 do not fit.", needed=3 * 2**30, free=2**29
            )
            with pytest.raises(NodeError, match=r"do not fit \(needed 3.2 GB, free 537 MB\)") as caught:
                await link.load(LOAD, b"{}", [])
            assert caught.value.kind == "memory" and "fewer layers" in caught.value.advice
            await link.close()

    asyncio.run(scenario())


def test_a_load_reports_progress_and_then_what_it_took() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            progress: list[tuple[int, int]] = []
            loaded = await link.load(LOAD, b"{}", [], lambda done, total: progress.append((done, total)))
            assert isinstance(loaded, Loaded) and loaded.weight_bytes == 10
            assert progress == [(1, 2)]
            await link.close()

    asyncio.run(scenario())


def test_a_call_without_an_answer_times_out() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            b.agent.silent_on.add(Drain)
            with pytest.raises(NodeError) as caught:
                await link.call(Drain(call=0, draining=True), seconds=0.2)
            assert caught.value.kind == "timeout"
            assert isinstance(await link.call(Health(call=0)), HealthReport), "the link goes on"
            await link.close()

    asyncio.run(scenario())


def test_calls_under_way_fail_at_once_when_the_agent_dies() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            b.agent.silent_on.add(Drain)
            waiting = asyncio.create_task(link.call(Drain(call=0, draining=True), seconds=60))
            while not any(isinstance(message, Drain) for message in b.agent.got):
                await asyncio.sleep(0.01)
            killed = time.monotonic()
            await b.agent.stop_listening()
            with pytest.raises(NodeError) as caught:
                await waiting
            assert caught.value.kind == "lost" and time.monotonic() - killed < 1.0
            with pytest.raises(NodeError):
                await link.call(Health(call=0))
            await link.close()

    asyncio.run(scenario())


def test_closing_fails_the_calls_under_way() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            b.agent.silent_on.add(Drain)
            waiting = asyncio.create_task(link.call(Drain(call=0, draining=True), seconds=60))
            await asyncio.sleep(0.05)
            await link.close()
            with pytest.raises(NodeError, match="closed"):
                await asyncio.wait_for(waiting, 1.0)

    asyncio.run(scenario())


def test_a_message_to_a_dead_agent_is_not_kept_for_the_next_one() -> None:
    """A cancel or a start that arrives in another process would be worse than one that is lost."""

    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            await b.agent.stop_listening()
            with pytest.raises(NodeError):
                await link.call(Drain(call=0, draining=True), seconds=0.3)
            b.agent.listen_again("boot2")
            assert await link.wait_up(8.0)
            await link.call(Health(call=0))
            assert not any(isinstance(message, Drain) for message in b.agent.got)
            await link.close()

    asyncio.run(scenario())


def test_tokens_reach_the_ring_callbacks_until_they_are_taken_off() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            got: list[object] = []
            stop = link.on_ring(got.append)
            first = Tokens(deployment="d", epoch=1, step=1, tokens=(Token(sequence=1, position=5, token=7),))
            await b.agent.send_ring(first)
            await link.call(Health(call=0))
            stop()
            await b.agent.send_ring(first)
            await link.call(Health(call=0))
            assert got == [first]
            await link.close()

    asyncio.run(scenario())
