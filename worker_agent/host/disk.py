"""How fast this machine reads the shard store: what loading a stage has to wait for when its weights are not in memory.

No system is asked to leave its cache aside, since each would have to be asked in its own way. Instead everything is
read twice: the second time it comes from the memory in which the system keeps what was read last. A file that took much
longer the first time came from the disk; of one that did not, the disk has told nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from worker_agent.wire.messages import DiskSpeed

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20
"""So much is read: less than a second of a slow disk."""
LEAST_BYTES = 2 * 2**20
"""Of less, what opening files takes would be measured."""
COLD = 2.0
"""A file that takes so many times as long the first time was not in memory."""
_BLOCK = 2**20


@dataclass(frozen=True)
class Reading:
    """One file, read twice. Bytes and seconds."""

    size: int
    first: float
    second: float


def measure(files: Iterable[Path]) -> DiskSpeed | None:
    """Read files of a store, the largest first; None where there is too little to read, or nothing can be read."""
    readings: list[Reading] = []
    left = MOST_BYTES
    for file in sorted(files, key=_size, reverse=True):
        if left <= 0:
            break
        try:
            size, first = _read(file, left)
            readings.append(Reading(size, first, _read(file, size)[1]))
        except OSError as error:  # it may have been removed meanwhile
            log.debug("%s could not be read: %s", file, error)
            continue
        left -= size
    return judged(readings)


def judged(readings: Iterable[Reading]) -> DiskSpeed | None:
    """What two readings of each file tell of the disk and of the memory before it. Pure."""
    known = [each for each in readings if each.size and each.second > 0]
    size = sum(each.size for each in known)
    if size < LEAST_BYTES:
        return None
    cold = [each for each in known if each.first > COLD * each.second]
    read = sum(each.size for each in cold)
    return DiskSpeed(
        cached_bytes_per_second=size / sum(each.second for each in known),
        bytes_per_second=read / sum(each.first for each in cold) if read >= LEAST_BYTES else None,
    )


class DiskMeter:
    """Measures once, in a thread of its own, when the agent begins: what was not read since the machine was started is
    not in memory then."""

    def __init__(self, files: Callable[[], Iterable[Path]]) -> None:
        self.speed: DiskSpeed | None = None
        self._files = files

    def start(self) -> None:
        threading.Thread(target=self._measure, name="disk-speed", daemon=True).start()

    def _measure(self) -> None:
        try:
            self.speed = measure(self._files())
        except OSError as error:
            log.warning("how fast the shard store is read could not be measured: %s", error)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _read(file: Path, most: int) -> tuple[int, float]:
    """Read a file, or so many bytes of it: how many, and the seconds."""
    buffer = memoryview(bytearray(_BLOCK))
    size, began = 0, time.perf_counter()
    with file.open("rb", buffering=0) as opened:
        while size < most and (count := opened.readinto(buffer)):
            size += count
    return size, time.perf_counter() - began
