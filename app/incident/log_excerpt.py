"""The lines of a log around the time of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

MARGIN = timedelta(seconds=30)
"""What led to a failure often stands a little before, what followed a little after."""
LAST_LINES = 100
"""So many are shown when none lies within the time."""
MAX_CHARACTERS = 1_000_000

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,](\d{1,6}))?")


def read_log(path: Path) -> str:
    """A log file, and before it the one that it was rotated from. Empty when there is none. Raises OSError."""
    texts = []
    for file in (path.with_name(f"{path.name}.1"), path):
        try:
            texts.append(file.read_text("utf-8", errors="replace"))
        except FileNotFoundError:
            continue
    return "".join(texts)


def excerpt(log: str, began: datetime, ended: datetime) -> str:
    """What a log says of a time and of half a minute on either side.

    Lines without a time belong to the one before them. Times in a log are those of the clock on the wall of its
    machine, which may hang in another time zone: when no line fits, the last ones are shown and a remark says so.
    """
    first = (began - MARGIN).astimezone().replace(tzinfo=None)
    last = (ended + MARGIN).astimezone().replace(tzinfo=None)
    lines = log.splitlines()
    kept, times = [], []
    inside = False
    for line in lines:
        at = _time_of(line)
        if at is not None:
            times.append(at)
            inside = first <= at <= last
        if inside:
            kept.append(line)
    if kept:
        return _joined(kept)
    if not lines:
        return "# The log is empty.\n"
    return _joined([_remark(times, first, last), *lines[-LAST_LINES:]])


def remark(text: str) -> str:
    """A log's stand-in where there is none."""
    return f"# {' '.join(text.split())}\n"


def _remark(times: Iterable[datetime], first: datetime, last: datetime) -> str:
    known = list(times)
    asked = f"{first:%Y-%m-%d %H:%M:%S} to {last:%H:%M:%S} of the controller's clock"
    if not known:
        return f"# No line carries a time; asked for was {asked}. The last lines:"
    reaches = f"they reach from {known[0]:%Y-%m-%d %H:%M:%S} to {known[-1]:%Y-%m-%d %H:%M:%S}"
    return f"# No line is of {asked}: {reaches}. The clock may hang in another time zone. The last lines:"


def _time_of(line: str) -> datetime | None:
    match = _TIME.match(line)
    if match is None:
        return None
    try:
        return datetime.fromisoformat(f"{match[1]} {match[2]}.{(match[3] or '0').ljust(6, '0')}")
    except ValueError:  # looks like a time and is none
        return None


def _joined(lines: Iterable[str]) -> str:
    text = "\n".join(lines) + "\n"
    if len(text) <= MAX_CHARACTERS:
        return text
    kept = text[-MAX_CHARACTERS:]
    return "# What came before is left out: the log is too long.\n" + kept[kept.find("\n") + 1 :]
