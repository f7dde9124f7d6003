"""Parts on disk: receive, resume, verify, evict; and what is left behind when it goes wrong."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from worker_agent.store.shard_store import NoRoom, Received, ShardStore
from worker_agent.wire.errors import BadWeights

MEGABYTE = 1_000_000


def part(size: int) -> tuple[str, bytes]:
    content = secrets.token_bytes(size)
    return blake3(content).hexdigest(), content


def put(store: ShardStore, digest: str, content: bytes, chunk: int = 300) -> Received:
    """Send a part from its first byte to its last."""
    received = Received(0, False)
    for offset in range(0, len(content), chunk):
        received = store.write(digest, offset, len(content), content[offset : offset + chunk])
    return received


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_part_comes_in_chunks_and_is_whole_at_the_end(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    digest, content = part(1000)
    assert store.offer([digest], [1000]) == (0,)
    assert store.write(digest, 0, 1000, content[:300]) == Received(300, False)
    assert names(tmp_path) == [f"{digest}.partial"]
    with pytest.raises(BadWeights, match="has to be sent"):
        store.path(digest)
    store.write(digest, 300, 1000, memoryview(content)[300:900])
    assert store.write(digest, 900, 1000, content[900:]) == Received(1000, True)
    assert store.path(digest).read_bytes() == content
    assert names(tmp_path) == [digest]
    assert store.offer([digest], [1000]) == (1000,)
    store.verify(digest, 1000)


def test_another_process_goes_on_where_the_first_one_ended(tmp_path: Path) -> None:
    digest, content = part(1000)
    first = ShardStore(tmp_path)
    first.write(digest, 0, 1000, content[:400])
    first.close()
    second = ShardStore(tmp_path)
    assert second.offer([digest], [1000]) == (400,)
    assert second.write(digest, 400, 1000, content[400:]) == Received(1000, True)
    assert second.path(digest).read_bytes() == content


def test_a_chunk_out_of_place_is_answered_with_where_to_go_on(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    digest, content = part(1000)
    assert store.write(digest, 500, 1000, content[500:]) == Received(0, False)
    store.write(digest, 0, 1000, content[:400])
    assert store.write(digest, 0, 1000, content[:400]) == Received(400, False)
    assert store.write(digest, 700, 1000, content[700:]) == Received(400, False)
    assert store.write(digest, 400, 1000, content[400:]) == Received(1000, True)
    assert store.write(digest, 0, 1000, content[:400]) == Received(1000, True)


def test_several_parts_may_come_at_once(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    parts = [part(1000) for _ in range(6)]
    for offset in range(0, 1000, 250):
        for digest, content in parts:
            store.write(digest, offset, 1000, content[offset : offset + 250])
    assert [store.path(digest).read_bytes() for digest, _ in parts] == [content for _, content in parts]


def test_a_part_with_a_wrong_hash_is_refused_and_nothing_of_it_stays(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    digest, content = part(1000)
    damaged = content[:500] + bytes([content[500] ^ 1]) + content[501:]
    with pytest.raises(BadWeights, match="Nothing of it was kept"):
        put(store, digest, damaged)
    assert names(tmp_path) == []
    assert put(store, digest, content) == Received(1000, True)


def test_a_partial_that_was_damaged_on_disk_is_found_at_the_end(tmp_path: Path) -> None:
    digest, content = part(1000)
    (tmp_path / f"{digest}.partial").write_bytes(bytes(400))
    store = ShardStore(tmp_path)
    with pytest.raises(BadWeights):
        store.write(digest, 400, 1000, content[400:])
    assert names(tmp_path) == []


def test_a_partial_longer_than_its_part_begins_anew(tmp_path: Path) -> None:
    digest, content = part(1000)
    (tmp_path / f"{digest}.partial").write_bytes(bytes(2000))
    assert ShardStore(tmp_path).write(digest, 500, 1000, content[500:]) == Received(0, False)
    assert names(tmp_path) == []


def test_a_part_that_rotted_on_disk_is_deleted_before_it_is_loaded(tmp_path: Path) -> None:
    digest, content = part(1000)
    put(ShardStore(tmp_path), digest, content)
    (tmp_path / digest).write_bytes(content[:-1] + b"?")
    store = ShardStore(tmp_path)
    with pytest.raises(BadWeights, match="was damaged on this node's disk and was deleted"):
        store.verify(digest, 1000)
    assert store.offer([digest], [1000]) == (0,)


# --- room ---


def age(folder: Path, *digests: str) -> None:
    """Make parts look used long ago, the first one longest."""
    for number, digest in enumerate(digests):
        os.utime(folder / digest, (1000 + number, 1000 + number))


def test_over_the_limit_the_least_recently_used_parts_go(tmp_path: Path) -> None:
    old, older, oldest = part(1000), part(1000), part(1000)
    before = ShardStore(tmp_path)
    for digest, content in (oldest, older, old):
        put(before, digest, content)
    age(tmp_path, oldest[0], older[0], old[0])
    store = ShardStore(tmp_path, limit=3500)
    new = part(1500)
    put(store, *new, chunk=500)
    assert names(tmp_path) == sorted([old[0], older[0], new[0]]) or names(tmp_path) == sorted([old[0], new[0]])
    assert store.used <= 3500
    assert oldest[0] not in names(tmp_path)
    assert old[0] in names(tmp_path)


def test_parts_in_use_and_parts_just_offered_are_not_evicted(tmp_path: Path) -> None:
    loaded, offered, idle = part(1000), part(1000), part(1000)
    before = ShardStore(tmp_path)
    for digest, content in (loaded, offered, idle):
        put(before, digest, content)
    age(tmp_path, loaded[0], offered[0], idle[0])
    store = ShardStore(tmp_path, limit=3000)
    store.pin([loaded[0], loaded[0]])
    store.unpin([loaded[0]])
    store.offer([offered[0]], [1000])
    put(store, *part(1000))
    assert loaded[0] in names(tmp_path)
    assert offered[0] in names(tmp_path)
    assert idle[0] not in names(tmp_path)


def test_what_fits_in_no_case_is_refused_before_its_first_byte(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, limit=3000)
    pinned = part(1000)
    put(store, *pinned)
    store.pin([pinned[0]])
    digest, _ = part(2500)
    with pytest.raises(NoRoom, match=r"too full.*needed.*free") as caught:
        store.offer([digest], [2500])
    assert (caught.value.needed, caught.value.free) == (2500, 2000)
    assert names(tmp_path) == [pinned[0]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small tmpfs")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("this system lets nobody mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_found_before_the_first_byte(small_disk: Path) -> None:
    store = ShardStore(small_disk / "parts")
    digest, _ = part(1)
    with pytest.raises(NoRoom) as caught:
        store.offer([digest], [20 * MEGABYTE])
    assert caught.value.needed == 20 * MEGABYTE
    assert 7 * MEGABYTE < caught.value.free < 9 * MEGABYTE


def test_a_disk_that_fills_up_midway_costs_nothing_that_had_come(small_disk: Path) -> None:
    store = ShardStore(small_disk / "parts")
    whole, content = part(MEGABYTE)
    put(store, whole, content, chunk=MEGABYTE)
    digest, content = part(6 * MEGABYTE)
    store.write(digest, 0, len(content), content[: 3 * MEGABYTE])
    hog = small_disk / "somebody elses file"
    with pytest.raises(OSError, match="No space"):
        hog.write_bytes(bytes(9 * MEGABYTE))
    with pytest.raises(NoRoom, match="too full"):
        store.write(digest, 3 * MEGABYTE, len(content), content[3 * MEGABYTE :])
    assert store.path(whole).exists()
    assert store.offer([whole], [MEGABYTE]) == (MEGABYTE,)
    hog.unlink()
    assert store.write(digest, 3 * MEGABYTE, len(content), content[3 * MEGABYTE :]) == Received(len(content), True)
    assert store.path(digest).read_bytes() == content
    store.close()
