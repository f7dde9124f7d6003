"""Sending weights: only what is lacking, resumed where it stopped, verified."""

from __future__ import annotations

import asyncio
import hashlib

import blake3
import pytest

from app.cluster.weights import WINDOW, PartReader, SendProgress, send_parts
from app.errors import Cancelled, NodeError
from tests.cluster.small_agent import bench
from worker_agent.wire.messages import CHUNK_BYTES, Chunk, Failed, Offer, Part, PartTensor

MIB = 2**20


def part_of(content: bytes, index: int = 0) -> tuple[Part, PartReader]:
    tensor = PartTensor("w", "U8", (len(content),), len(content))
    part = Part("layer", index, (tensor,), blake3.blake3(content).hexdigest())
    return part, lambda offset, length: content[offset : offset + length]


def content_of(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(bytes([seed])).digest(size)


def test_parts_arrive_whole_and_are_not_sent_twice() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            contents = [content_of(9 * MIB), content_of(100, 1)]
            wanted = [part_of(content, index) for index, content in enumerate(contents)]
            seen: list[SendProgress] = []
            sent = await send_parts(link, [*wanted, wanted[0]], seen.append)
            assert sent == sum(len(content) for content in contents)
            assert [bytes(b.agent.contents[part.digest]) for part, _ in wanted] == contents
            assert (seen[0].already_bytes, seen[0].done_bytes, seen[0].total_bytes) == (0, 0, sent)
            assert seen[-1].done_bytes == seen[-1].total_bytes == sent
            assert all(len(chunk.digest) == 64 for chunk in b.agent.chunks) and len(b.agent.chunks) == 4
            seen.clear()
            assert await send_parts(link, wanted, seen.append) == 0
            assert [(each.already_bytes, each.done_bytes, each.total_bytes) for each in seen] == [(sent, sent, sent)]
            await link.close()

    asyncio.run(scenario())


def test_sending_goes_on_where_the_agent_says_it_stopped() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            content = content_of(5 * MIB)
            part, reader = part_of(content)
            b.agent.contents[part.digest] = bytearray(content[: 3 * MIB])
            seen: list[SendProgress] = []
            assert await send_parts(link, [(part, reader)], seen.append) == 2 * MIB
            assert {each.already_bytes for each in seen} == {3 * MIB}
            assert [each.done_bytes for each in seen] == [3 * MIB, 5 * MIB]
            assert b.agent.chunks[0].offset == 3 * MIB
            assert bytes(b.agent.contents[part.digest]) == content
            await link.close()

    asyncio.run(scenario())


def test_a_transfer_outlives_a_cut_of_the_line() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            content = content_of(8 * CHUNK_BYTES)
            part, reader = part_of(content)
            b.agent.chunk_delay = 0.05
            sending = asyncio.create_task(send_parts(link, [(part, reader)]))
            while len(b.agent.chunks) < 3:
                await asyncio.sleep(0.01)
            await b.agent.stop_listening()
            await asyncio.sleep(0.2)
            b.agent.listen_again()
            sent = await asyncio.wait_for(sending, 20)
            assert bytes(b.agent.contents[part.digest]) == content
            assert len(content) <= sent <= len(content) + (WINDOW + 1) * CHUNK_BYTES, "nothing was begun from the start"
            await link.close()

    asyncio.run(scenario())


def test_no_more_than_the_window_is_unanswered() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            b.agent.silent_on.add(Chunk)
            part, reader = part_of(content_of(10 * CHUNK_BYTES))
            sending = asyncio.create_task(send_parts(link, [(part, reader)]))
            await asyncio.sleep(0.5)
            assert sum(isinstance(message, Chunk) for message in b.agent.got) == WINDOW
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await link.close()

    asyncio.run(scenario())


def test_content_that_does_not_match_its_hash_is_an_error_of_weights() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            part, _ = part_of(content_of(1000))
            other = content_of(1000, 9)
            with pytest.raises(NodeError) as caught:
                await send_parts(link, [(part, lambda offset, length: other[offset : offset + length])])
            assert caught.value.kind == "damaged"
            assert part.digest not in b.agent.contents
            await link.close()

    asyncio.run(scenario())


def test_a_full_disk_is_told_before_the_first_byte() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            b.agent.answers[Offer] = Failed(call=0, kind="disk", message="The disk is full.", needed=10 * MIB, free=MIB)
            with pytest.raises(NodeError, match=r"needed 10\.5 MB, free 1 MB") as caught:
                await send_parts(link, [part_of(content_of(1000))])
            assert caught.value.kind == "disk" and not b.agent.chunks
            await link.close()

    asyncio.run(scenario())


def test_a_source_that_ends_too_soon_is_an_error() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            part, _ = part_of(content_of(1000))
            with pytest.raises(NodeError, match="layer 0 ends at byte 0") as caught:
                await send_parts(link, [(part, lambda offset, length: b"")])
            assert caught.value.kind == "weights"
            await link.close()

    asyncio.run(scenario())


def test_a_cancelled_transfer_stops_and_keeps_what_has_arrived() -> None:
    async def scenario() -> None:
        async with bench() as b:
            link = b.link()
            await link.connect()
            cancel = asyncio.Event()
            part, reader = part_of(content_of(10 * CHUNK_BYTES))
            b.agent.chunk_delay = 0.02

            def on_progress(progress: SendProgress) -> None:
                if progress.done_bytes >= 2 * CHUNK_BYTES:
                    cancel.set()

            with pytest.raises(Cancelled):
                await send_parts(link, [(part, reader)], on_progress, cancel)
            assert 2 * CHUNK_BYTES <= len(b.agent.contents[part.digest]) < part.nbytes
            await link.close()

    asyncio.run(scenario())
