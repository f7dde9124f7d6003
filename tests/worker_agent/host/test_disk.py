"""What two readings of the same files tell of a disk, and of the memory before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.waiting import wait_until
from worker_agent.host.disk import COLD, LEAST_BYTES, MOST_BYTES, DiskMeter, Reading, judged, measure
from worker_agent.store.shard_store import ShardStore

MB = 10**6


def test_a_file_that_took_much_longer_the_first_time_came_from_the_disk() -> None:
    found = judged([Reading(10 * MB, 0.1, 0.01), Reading(10 * MB, 0.3, 0.01)])
    assert found is not None
    assert found.bytes_per_second == pytest.approx(20 * MB / 0.4)
    assert found.cached_bytes_per_second == pytest.approx(20 * MB / 0.02)


def test_of_files_that_were_in_memory_the_disk_tells_nothing() -> None:
    found = judged([Reading(10 * MB, COLD * 0.01, 0.01)])
    assert found is not None and found.bytes_per_second is None
    assert found.cached_bytes_per_second == pytest.approx(1e9)
    partly = judged([Reading(10 * MB, 0.011, 0.01), Reading(10 * MB, 0.1, 0.01)])
    assert partly is not None and partly.bytes_per_second == pytest.approx(1e8), "those from the disk alone tell of it"


def test_too_little_tells_nothing() -> None:
    assert judged([]) is None and judged([Reading(LEAST_BYTES - 1, 1.0, 0.1)]) is None


def test_an_agent_measures_the_whole_parts_of_its_store(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    whole, content = "a" * 64, bytes(LEAST_BYTES)
    for name in (whole, "b" * 64 + ".partial", "a note of the user"):
        (tmp_path / name).write_bytes(content)
    assert store.files() == [tmp_path / whole]
    meter = DiskMeter(store.files)
    meter.start()
    wait_until(lambda: meter.speed is not None, 30)


def test_real_files_are_read_up_to_a_limit_and_one_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / str(number)).write_bytes(bytes(3 * 2**20))
    read: list[Path] = []

    class Watched(type(tmp_path)):  # type: ignore[misc]
        def open(self, *args: object, **options: object) -> object:
            read.append(Path(self))
            return super().open(*args, **options)

    found = measure([Watched(tmp_path / name) for name in ("0", "gone", "1", "2")])
    assert found is not None and found.cached_bytes_per_second > 0
    assert {path.name for path in read} == {"0", "1", "2", "gone"} and MOST_BYTES > 9 * 2**20
    (tmp_path / "large").write_bytes(bytes(MOST_BYTES + 1))
    read.clear()
    assert measure([Watched(tmp_path / "0"), Watched(tmp_path / "large")]) is not None
    assert {path.name for path in read} == {"large"}, "the largest is enough"
