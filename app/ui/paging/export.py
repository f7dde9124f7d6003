"""Writing many rows to a file in a thread: a page at a time, with progress and cancel, whole or not at all."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import BadInput, Cancelled
from app.ui.bridge import Bridge, Call
from app.ui.paging.listing import Listing

if TYPE_CHECKING:
    from app.registry import Registry

AT_ONCE = 500
"""Rows read together."""


@dataclass(frozen=True)
class Export:
    """What to write: rows of a listing, up to an id, as lines."""

    listing: Listing
    last: int | None
    ranges: tuple[tuple[int, int], ...]
    """First and last row of each range."""
    file: Path
    line_of: Callable[[Any], str]

    @property
    def total(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)


def json_line(record: Any) -> str:
    """A record as an object on one line: all its fields, times in ISO 8601."""
    return json.dumps(asdict(record), ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def begin(bridge: Bridge, export: Export) -> Call:
    """Write it. `progressed` tells how many rows are written, `done` brings their number."""
    return bridge.call(lambda controller, report: _run(export, controller.registry, report), "exporting")


async def _run(export: Export, registry: Registry, report: Callable[[int], None]) -> int:
    stop = threading.Event()
    writing = asyncio.ensure_future(asyncio.to_thread(_write, export, registry, report, stop))
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(writing, return_exceptions=True)  # it takes its half-written file away
        raise


def _write(export: Export, registry: Registry, report: Callable[[int], None], stop: threading.Event) -> int:
    partial = export.file.with_name(f".{export.file.name}.{uuid.uuid4().hex[:8]}")
    written = 0
    try:
        with partial.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
            for records in _batches(export, registry):
                if stop.is_set():
                    raise Cancelled("The export was cancelled.")
                file.writelines(f"{export.line_of(record)}\n" for record in records)
                written += len(records)
                report(written)
        partial.replace(export.file)
    except OSError as error:
        raise BadInput(
            f"{export.file} cannot be written: {error.strerror or error}.", "Choose another folder, or free some space."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return written


def _batches(export: Export, registry: Registry) -> Iterator[Sequence[Any]]:
    for first, last in export.ranges:
        for offset in range(first, last + 1, AT_ONCE):
            records = export.listing.records(registry, export.last, offset, min(AT_ONCE, last + 1 - offset))
            if not records:
                return  # rows were removed meanwhile
            yield records
