"""The agent's log: one line per event, in agent.log (rotating) and on stderr."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from pathlib import Path

_MAX_BYTES = 5 * 1024 * 1024
_KEPT_FILES = 3


class OneLine(logging.Formatter):
    """An event stays one line, its traceback included, so that a log can be searched line by line.

    What a peer sent may stand in it: whatever would move a terminal's cursor, or end a line elsewhere, is written out.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(threadName)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = " ⏎ ".join(super().format(record).splitlines())
        return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def open_log(path: Path, level: str) -> None:
    """Send everything that is logged from here on to `path` and to stderr."""
    handlers = (
        logging.handlers.RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_KEPT_FILES, encoding="utf-8"),
        logging.StreamHandler(sys.stderr),
    )
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in handlers:
        handler.setFormatter(OneLine())
        root.addHandler(handler)


def read_tail(path: Path, max_bytes: int) -> bytes:
    """The last whole lines of the log, at most so many bytes; of the file before, where this one is still short."""
    found = b""
    for file in (path, path.with_name(f"{path.name}.1")):
        found = _end_of(file, max_bytes - len(found) + 1) + found
        if len(found) > max_bytes:  # one byte more tells whether the first line is whole
            return found[found.find(b"\n", 0, len(found) - 1) + 1 :][-max_bytes:]
    return found


def _end_of(file: Path, count: int) -> bytes:
    """Its last bytes; nothing of a file that is not there."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - count))
            return opened.read(count)
    except FileNotFoundError:
        return b""
