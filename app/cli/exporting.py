"""`export`: runs as files for people, programs and trace viewers."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.atomic_file import open_atomically, unwritable
from app.cli.output import note, progress_shown
from app.cli.session import open_registry
from app.errors import BadInput
from app.figures import size_text
from app.registry import Registry
from app.runs.export import SUFFIXES, ExportFormat, export_runs
from app.runs.reader import RunReader
from app.runs.run import Run, RunKind

UNITS = {"s": "seconds", "min": "minutes", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
STDOUT = Path("-")


class Kind(StrEnum):
    REQUEST = "request"
    DEPLOYMENT = "deployment"
    JOB = "job"


def register(app: typer.Typer) -> None:
    app.command()(export)


def export(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="The runs' ids; see: request list. Or use the options.")
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option(help="What the ids are of, or which runs to take. [default: request]")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Those asked since: 2026-03-01, 2026-03-01T14:30, or so long ago: 2h, 3d.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Those asked before this time. A date alone takes the day with it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Those of this model.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every kind of run, unless --kind is given.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="No more than so many, the newest.")] = None,
    format: Annotated[
        ExportFormat | None, typer.Option("--format", "-f", help="[default: by the file's name, else jsonl]")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write, which is there whole or not at all; - is stdout.")
    ] = STDOUT,
) -> None:
    """Export runs: all that was recorded of requests, deployments or jobs.

    jsonl is for programs, csv has the time of every token, html is a report to read, chrome opens in Perfetto.
    """
    choice = choose(ids, kind, since=since, until=until, model=model, everything=everything, limit=limit)
    chosen = format or _format_of(output)
    with open_registry() as registry:
        runs = choice.runs(registry)
        with _counted(runs, choice.count(registry)) as counted:
            written = _write(counted, chosen, output)
    if written == 0:
        note("No run was recorded that fits; the export is empty.")
    elif output != STDOUT:
        note(f"{output}: {written:,} {'run' if written == 1 else 'runs'}, {size_text(output.stat().st_size)}.")


@dataclass(frozen=True)
class Choice:
    """Which runs are meant: those with these ids, or all of these kinds that fit the rest."""

    kinds: tuple[RunKind, ...]
    ids: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    limit: int | None = None

    def runs(self, registry: Registry) -> Iterator[Run]:
        """Raises RegistryError at once when an id is not there, before anything is written."""
        reader = RunReader(registry)
        for id in self.ids or ():
            reader.find(self.kinds[0], id)
        return reader.select(
            kinds=self.kinds, ids=self.ids, since=self.since, until=self.until, model=self.model, limit=self.limit
        )

    def count(self, registry: Registry) -> int:
        """How many there are, for the progress; deployments, of which there are few, as if all fitted."""
        if self.ids is not None:
            return len(self.ids)
        total = 0
        if "request" in self.kinds:
            total += registry.requests.count(since=self.since, until=self.until, model_name=self.model)
        if "deployment" in self.kinds:
            total += len(registry.deployments.list(since=self.since, model_name=self.model))
        if "job" in self.kinds:
            total += registry.jobs.count(since=self.since, until=self.until, model_name=self.model)
        return total if self.limit is None else min(total, self.limit)


def choose(
    ids: list[str] | None,
    kind: Kind | None,
    *,
    since: str | None = None,
    until: str | None = None,
    model: str | None = None,
    everything: bool = False,
    limit: int | None = None,
) -> Choice:
    """Raises BadInput for options that say nothing, or two things at once."""
    narrowed = since is not None or until is not None or model is not None or limit is not None
    if ids:
        if narrowed or everything:
            raise BadInput("Ids and a choice by options exclude each other.", "Leave out one of them.")
        return Choice(kinds=((kind or Kind.REQUEST).value,), ids=tuple(dict.fromkeys(ids)))
    if not (narrowed or everything or kind):
        raise BadInput(
            "Which runs to export is not said.", "Give ids, or --kind, --since, --until, --model, --limit, or --all."
        )
    begin = None if since is None else read_moment(since, "--since")
    end = None if until is None else read_moment(until, "--until", end=True)
    if begin is not None and end is not None and begin >= end:
        raise BadInput(f"Nothing lies between --since {since} and --until {until}.", "Swap them, or widen them.")
    kinds: tuple[RunKind, ...] = ("request", "deployment", "job") if everything else ("request",)
    return Choice(kinds if kind is None else (kind.value,), None, begin, end, model, limit)


def read_moment(text: str, option: str, *, end: bool = False, now: datetime | None = None) -> datetime:
    """A moment: an ISO date or time, in this machine's time zone unless it names one, or how long ago: 90s, 2h, 3d.

    Args:
        end: a date alone means the end of that day, not its beginning.

    Raises:
        BadInput: it is neither, or lies outside of what a calendar has.
    """
    advice = "It takes a date (2026-03-01), a time (2026-03-01T14:30) or how long ago (30min, 2h, 3d)."
    given = text.strip()
    try:
        if match := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)\s*(s|min|m|h|d|w)", given):
            return (now or datetime.now()).astimezone() - timedelta(**{UNITS[match[2]]: float(match[1])})
        moment = datetime.fromisoformat(given)
        if end and re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", given):
            moment += timedelta(days=1)
        return moment if moment.tzinfo is not None else moment.astimezone()
    except (ValueError, OverflowError, OSError):
        raise BadInput(f"{option} is '{text}', which is no time.", advice) from None


def _format_of(output: Path) -> ExportFormat:
    """What the file's name asks for. Raises BadInput for a name that asks for something else."""
    if output == STDOUT:
        return ExportFormat.JSONL
    name = output.name.lower()
    for format, suffix in SUFFIXES.items():
        if name.endswith(suffix):
            return format
    if name.endswith(".json"):
        raise BadInput(f"{output.name} does not say which format is meant.", "Give --format jsonl or --format chrome.")
    return ExportFormat.HTML if name.endswith(".htm") else ExportFormat.JSONL


def _write(runs: Iterable[Run], format: ExportFormat, output: Path) -> int:
    """How many. Raises DiskFullError and BadInput when the file cannot be written."""
    if output == STDOUT:
        count = export_runs(runs, format, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return count
    try:
        with open_atomically(output) as file:
            return export_runs(runs, format, file)
    except OSError as error:
        raise unwritable(output, error) from error


@contextlib.contextmanager
def _counted(runs: Iterator[Run], total: int) -> Iterator[Iterator[Run]]:
    """The runs, counted on stderr when that is a terminal."""
    with progress_shown() as bars:

        def each() -> Iterator[Run]:
            for number, run in enumerate(runs, start=1):
                yield run
                del run
                bars.show("Exporting", number, total, "runs")

        yield each()
