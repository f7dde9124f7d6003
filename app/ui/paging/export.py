"""Writing rows of a listing to a file in a thread: one after another, with progress and cancel, whole or not at all."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from app.atomic_file import open_atomically, unwritable
from app.children.work import REPORT_SECONDS, until_over
from app.errors import Cancelled
from app.ui.bridge import Bridge, Call
from app.ui.paging.listing import Listing

if TYPE_CHECKING:
    from app.controller import Controller
    from app.registry import Registry
    from app.ui.bridge import Report

AT_ONCE = 500
"""Rows read together."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Rows:
    """Rows of a listing up to an id, as ranges of first and last row; the newest row is number 0."""

    listing: Listing
    last: int | None
    ranges: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def records(self, registry: Registry) -> Iterator[Any]:
        """Those that are still there, as the table shows them. Blocks."""
        for first, last in self.ranges:
            for offset in range(first, last + 1, AT_ONCE):
                yield from self.listing.page(registry, self.last, offset, min(AT_ONCE, last + 1 - offset))


def json_line(record: Any) -> str:
    """A record as an object on one line: all its fields, times in ISO 8601."""
    return json.dumps(asdict(record), ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def write(
    bridge: Bridge,
    file: Path,
    items: Callable[[Controller], Iterable[Item]],
    form: Callable[[Iterator[Item], BinaryIO], int],
) -> Call:
    """Write items to a file. `progressed` tells how many are written, `done` brings what `form` returned.

    Args:
        items: what to write, one at a time; runs in a thread, as `form` does.
        form: writes them and says how many there were.
    """

    async def work(controller: Controller, report: Report) -> int:
        stop = threading.Event()

        def counted() -> Iterator[Item]:
            told_at = 0.0
            for number, item in enumerate(items(controller), start=1):
                yield item
                if stop.is_set():
                    raise Cancelled("The export was cancelled.")
                if time.monotonic() - told_at >= REPORT_SECONDS:
                    told_at = time.monotonic()
                    report(number)

        def run() -> int:
            try:
                with open_atomically(file) as output:
                    return form(counted(), output)
            except OSError as error:
                raise unwritable(file, error) from error

        writing = asyncio.ensure_future(asyncio.to_thread(run))
        await until_over(writing, stop.set)  # when it is cancelled it takes its half-written file away
        return writing.result()

    return bridge.call(work, "exporting")
