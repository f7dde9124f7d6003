"""Runs leave the program: as JSON Lines, CSV, a report to read, a trace to open in Perfetto. See docs/formats.md."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import BinaryIO

from app.runs.run import Run


class ExportFormat(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    HTML = "html"
    CHROME = "chrome"


SUFFIXES = {
    ExportFormat.JSONL: ".jsonl",
    ExportFormat.CSV: ".csv",
    ExportFormat.HTML: ".html",
    ExportFormat.CHROME: ".trace.json",
}
"""What the name of a file of the format ends with."""

MEDIA_TYPES = {
    ExportFormat.JSONL: "application/jsonl",
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.HTML: "text/html; charset=utf-8",
    ExportFormat.CHROME: "application/json",
}


def export_runs(runs: Iterable[Run], format: ExportFormat, output: BinaryIO) -> int:
    """Write runs in a format, in the order given; how many there were. Blocks: not for the controller's loop.

    The runs are taken one at a time, and no more than one is held, whatever the format. Besides `output`, which need
    not be seekable, CSV and HTML use a temporary file, since what stands first depends on what comes last.

    Raises:
        OSError: the output cannot be written.
    """
    match format:  # what a format needs is loaded with its first export
        case ExportFormat.JSONL:
            from app.runs.export.jsonl import write_jsonl

            return write_jsonl(runs, output)
        case ExportFormat.CSV:
            from app.runs.export.timings import write_timings

            return write_timings(runs, output)
        case ExportFormat.HTML:
            from app.runs.export.report import write_report

            return write_report(runs, output)
        case ExportFormat.CHROME:
            from app.runs.export.chrome import write_trace

            return write_trace(runs, output)


__all__ = ["MEDIA_TYPES", "SUFFIXES", "ExportFormat", "export_runs"]
