"""A report to read: one HTML file that needs nothing else, no scripts and no network.

Everything that comes from a run is escaped by jinja2, and a Content-Security-Policy in the file forbids scripts and
requests besides. Sections are written one after another into a temporary file, since the table of contents that stands
before them is known last.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import BinaryIO

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from msgspec import Struct

from app.figures import utc
from app.runs.export.section import ReportSection, section_of
from app.runs.run import Run
from worker_agent import __version__

TEMPLATES = Path(__file__).resolve().parent / "templates"
MEMORY = 4 * 2**20
"""So much waits in memory before a file on the disk is made."""

_CONTROL = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160)], "\ufffd")
"""Characters that HTML does not know, nor any reader."""


class Entry(Struct, frozen=True):
    """A line of the table of contents."""

    anchor: str
    title: str
    model: str
    status: str
    tone: str
    when: str
    took: str


def write_report(runs: Iterable[Run], output: BinaryIO) -> int:
    environment = _environment()
    entries: list[Entry] = []
    with tempfile.SpooledTemporaryFile(max_size=MEMORY) as sections:
        waiting: ReportSection | None = None
        for run in runs:
            # One run alone is what the page is about; of several each is a part. Known with the second.
            if waiting is not None:
                sections.write(_rendered(environment, waiting, "h2"))
            waiting = section_of(run, len(entries) + 1)
            entries.append(_entry(waiting))
            del run
        if waiting is not None:
            sections.write(_rendered(environment, waiting, "h1" if len(entries) == 1 else "h2"))
        head = environment.get_template("head.html").render(
            title=entries[0].title if len(entries) == 1 else f"{len(entries):,} runs",
            index=entries,
            exported=utc(datetime.now(UTC)),
            version=__version__,
            style=_style(),
        )
        output.write(_bytes(head))
        sections.seek(0)
        shutil.copyfileobj(sections, output)
        output.write(_bytes(environment.get_template("foot.html").render(version=__version__)))
    return len(entries)


def _entry(section: ReportSection) -> Entry:
    return Entry(
        section.anchor,
        section.told.title,
        section.told.run.model or "",
        section.told.state,
        section.tone,
        section.when,
        section.took,
    )


def _rendered(environment: Environment, section: ReportSection, heading: str) -> bytes:
    return _bytes(environment.get_template("section.html").render(run=section, heading=heading))


def _bytes(text: str) -> bytes:
    return text.translate(_CONTROL).encode("utf-8", errors="replace")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["clock"] = _clock
    environment.filters["value"] = lambda value: utc(value) if isinstance(value, datetime) else value
    return environment


def _clock(at: datetime) -> str:
    """To the millisecond, in UTC."""
    return at.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


@cache
def _style() -> Markup:
    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
