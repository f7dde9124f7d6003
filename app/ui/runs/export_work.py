"""Writing runs to a file beside everything else: which ones, and in which form."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.errors import BadInput, RegistryError
from app.runs.export import SUFFIXES, ExportFormat, export_runs
from app.runs.run import Run, RunKind
from app.ui.bridge import Bridge, Call
from app.ui.paging.export import Rows, write
from app.ui.paging.listing import RowId

if TYPE_CHECKING:
    from app.controller import Controller


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
    """Rows of a table."""

    kind: RunKind
    rows: Rows
    id: RowId | None = None
    """Of the run, where it is one."""

    @property
    def total(self) -> int:
        return self.rows.total

    def runs(self, controller: Controller) -> Iterator[Run]:
        for line in self.rows.records(controller.registry):
            with suppress(RegistryError):  # removed meanwhile
                yield controller.runs.find(self.kind, str(line.id))


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
    if form is Form.BUNDLE:
        return bridge.call(lambda controller, report: _bundle(controller, chosen, file), "exporting")
    format = ExportFormat(form)
    return write(bridge, file, chosen.runs, lambda runs, output: export_runs(runs, format, output))


async def _bundle(controller: Controller, chosen: Chosen, file: Path) -> int:
    from app.incident.bundle import write_bundle  # loaded with the first one that is asked for

    run = await asyncio.to_thread(next, chosen.runs(controller), None)
    if run is None:
        raise BadInput("The request is gone from the registry.")
    await write_bundle(controller, int(run.id), file)
    return 1
