"""Writing runs to a file beside everything else: which ones, in which form, with progress and a way to stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.atomic_file import open_atomically
from app.errors import BadInput, Cancelled, RegistryError
from app.runs.export import SUFFIXES, ExportFormat, export_runs
from app.runs.run import Run, RunKind
from app.ui.bridge import Bridge, Call
from app.ui.paging.listing import Listing, RowId

if TYPE_CHECKING:
    from app.controller import Controller
    from app.ui.bridge import Report

AT_ONCE = 200
"""Ids read together."""


class Form(StrEnum):
    """What can be written."""

    JSONL = "jsonl"
    CSV = "csv"
    HTML = "html"
    CHROME = "chrome"
    BUNDLE = "bundle"

    @property
    def suffix(self) -> str:
        return ".zip" if self is Form.BUNDLE else SUFFIXES[ExportFormat(self)]


class Chosen(Protocol):
    """Which runs."""

    @property
    def total(self) -> int | None:
        """How many; None when only counting would tell."""

    def runs(self, controller: Controller) -> Iterator[Run]:
        """One at a time. Blocks."""


@dataclass(frozen=True)
class RowsChosen:
    """Rows of a listing up to an id, as ranges of first and last row; the newest row is number 0."""

    kind: RunKind
    listing: Listing
    last: int | None
    ranges: tuple[tuple[int, int], ...]
    id: RowId | None = None
    """Of the run, where it is one."""

    @property
    def total(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def runs(self, controller: Controller) -> Iterator[Run]:
        for first, last in self.ranges:
            for offset in range(first, last + 1, AT_ONCE):
                page = self.listing.page(controller.registry, self.last, offset, min(AT_ONCE, last + 1 - offset))
                for line in page:
                    try:
                        yield controller.runs.find(self.kind, str(line.id))
                    except RegistryError:  # removed meanwhile
                        continue


@dataclass(frozen=True)
class TimeChosen:
    """What was asked for between two moments."""

    kind: RunKind
    since: datetime
    until: datetime
    total: int | None = None

    def runs(self, controller: Controller) -> Iterator[Run]:
        return controller.runs.select(kinds=(self.kind,), since=self.since, until=self.until)


def begin(bridge: Bridge, chosen: Chosen, form: Form, file: Path) -> Call:
    """Write it, whole or not at all. `progressed` tells how many runs are written, `done` brings their number."""

    async def work(controller: Controller, report: Report) -> int:
        if form is Form.BUNDLE:
            return await _bundle(controller, chosen, file)
        stop = threading.Event()
        writing = asyncio.ensure_future(asyncio.to_thread(_write, controller, chosen, form, file, report, stop))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.gather(writing, return_exceptions=True)  # it takes its half-written file away
            raise

    return bridge.call(work, "exporting")


async def _bundle(controller: Controller, chosen: Chosen, file: Path) -> int:
    from app.incident.bundle import write_bundle  # loaded with the first one that is asked for

    run = await asyncio.to_thread(next, chosen.runs(controller), None)
    if run is None:
        raise BadInput("The request is gone from the registry.")
    await write_bundle(controller, int(run.id), file)
    return 1


def _write(
    controller: Controller, chosen: Chosen, form: Form, file: Path, report: Callable[[int], None], stop: threading.Event
) -> int:
    def counted() -> Iterator[Run]:
        for number, run in enumerate(chosen.runs(controller), start=1):
            if stop.is_set():
                raise Cancelled("The export was cancelled.")
            yield run
            report(number)

    try:
        with open_atomically(file) as output:
            written = export_runs(counted(), ExportFormat(form), output)
            if stop.is_set():
                raise Cancelled("The export was cancelled.")
            return written
    except OSError as error:
        raise BadInput(
            f"{file} cannot be written: {error.strerror or error}.", "Choose another folder, or free some space."
        ) from error
