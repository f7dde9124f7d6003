"""Weights that go from agent to agent: what is lacking, from where it stopped, verified, to whom it was promised."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
import zmq.asyncio

from app.cluster.agent_link import AgentLink
from app.cluster.fetching import LEAST_BYTES, Holder, Received, fetch_parts
from app.cluster.weights import SendProgress, send_parts
from tests.cluster.test_weights import MIB, content_of, part_of
from tests.worker_agent.agent_process import AgentProcess
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.messages import AdmitFetch, Chunk, Fetch, Fetched, Offer

KEYS = KeyPair.make()


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[AgentProcess]]:
    """One that has weights, and one that lacks them."""
    folder, trust = tmp_path_factory.mktemp("fetching"), f"--trust={KEYS.public}"
    with ThreadPoolExecutor(2) as pool:
        started = list(pool.map(lambda name: AgentProcess.start(folder / name, trust), ("rich", "poor")))
    yield started
    for agent in started:
        agent.stop()


@asynccontextmanager
async def linked(agents: list[AgentProcess]) -> AsyncIterator[list[Holder]]:
    context = zmq.asyncio.Context()
    holders = [
        Holder(AgentLink(context, each.address, each.public_key, KEYS, boot="b"), each.address, each.public_key)
        for each in agents
    ]
    try:
        for holder in holders:
            await holder.link.connect(60)
        yield holders
    finally:
        for holder in holders:
            await holder.link.close()
        context.destroy(linger=0)


def test_an_agent_gets_what_it_lacks_from_one_that_has_it_and_goes_on_where_it_stopped(
    agents: list[AgentProcess],
) -> None:
    async def scenario() -> None:
        async with linked(agents) as (rich, poor):
            parts = [part_of(content_of(9 * MIB), 0), part_of(content_of(5 * MIB, 1), 1), part_of(content_of(7, 2), 2)]
            total, begun = sum(part.nbytes for part, _ in parts), 3 * MIB
            await send_parts(rich.link, parts)
            first, reader = parts[0]
            await poor.link.call(Offer(call=0, digests=(first.digest,), sizes=(first.nbytes,)))
            await poor.link.call(
                Chunk(call=0, digest=first.digest, offset=0, total=first.nbytes), (reader(0, begun),), seconds=60
            )
            seen: list[tuple[int, int]] = []
            wanted = [part for part, _ in parts]
            came = await fetch_parts(
                poor, [rich], wanted, lambda done, held: seen.append((done, held)), asyncio.Event()
            )
            assert came == Received(total - begun, begun)
            assert seen == sorted(seen) and seen[-1] == (total, begun)
            left: list[SendProgress] = []
            assert await send_parts(poor.link, parts, left.append, already=came.already) == 0
            assert (left[-1].already_bytes, left[-1].done_bytes) == (begun, total)
            small = [part_of(content_of(100, 3))]
            await send_parts(rich.link, small)
            assert small[0][0].nbytes < LEAST_BYTES
            nothing = await fetch_parts(poor, [rich], [small[0][0]], lambda done, held: None, asyncio.Event())
            assert nothing.bytes == 0, "it is not worth two agents' finding each other"

    asyncio.run(scenario())


def test_what_was_damaged_on_the_others_disk_is_not_kept_and_the_controller_sends_it(
    agents: list[AgentProcess], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with linked(agents) as (rich, poor):
            part, reader = part_of(content_of(6 * MIB, 4))
            await send_parts(rich.link, [(part, reader)])
            (agents[0].home / "parts" / part.digest).write_bytes(content_of(6 * MIB, 5))
            with caplog.at_level(logging.WARNING):
                await fetch_parts(poor, [rich], [part], lambda done, held: None, asyncio.Event())
            assert "so the controller sends them" in caplog.text and "damaged" in caplog.text
            have = await poor.link.call(Offer(call=0, digests=(part.digest,), sizes=(part.nbytes,)))
            assert have.held == (0,)
            assert await send_parts(poor.link, [(part, reader)]) == 6 * MIB

    asyncio.run(scenario())


def test_only_whom_a_controller_names_reads_only_the_parts_that_it_names(agents: list[AgentProcess]) -> None:
    async def scenario() -> None:
        async with linked(agents) as (rich, poor):
            (part, reader), (other, its_reader) = part_of(content_of(2 * MIB, 6)), part_of(content_of(2 * MIB, 7))
            await send_parts(rich.link, [(part, reader), (other, its_reader)])

            async def fetch() -> Fetched:
                message = Fetch(
                    call=0, address=rich.address, key=rich.key, digests=(part.digest,), sizes=(part.nbytes,), seconds=5
                )  # fmt: skip
                return (await poor.link.read(message, Fetched, seconds=60))[0]

            async def admit(*digests: str, key: str = poor.key, seconds: float = 30.0) -> None:
                await rich.link.call(AdmitFetch(call=0, key=key, digests=digests, seconds=seconds))

            await admit(part.digest, seconds=0.001)
            stranger = await fetch()
            assert (stranger.received, stranger.complete) == (0, False) and "not trusted" in stranger.trouble
            await admit(part.digest, key=KeyPair.make().public)
            assert "not trusted" in (await fetch()).trouble
            await admit(other.digest)
            curious = await fetch()
            assert curious.received == 0 and "may not send a ReadPart" in curious.trouble
            await admit(part.digest)
            assert (await fetch()).complete

    asyncio.run(scenario())
