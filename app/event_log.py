"""Warnings and errors of the program's own loggers become events of the registry, where the window shows them."""

from __future__ import annotations

import logging
import queue
import threading
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.registry import EventLevel, Registry

LOGGERS = ("app", "worker_agent")
SILENT = "app.registry"
"""Its own troubles are not written to itself: each would make the next."""
WAITING = 500
"""Records that may wait to be written; more are only counted."""
CHARACTERS = 4_000
"""Of a message; what the log file has is whole."""


class EventLogHandler(logging.Handler):
    """Takes records without waiting for the disk: a thread of its own writes them, in order.

    `install` it when the registry is open, `close` it before the registry is closed.
    """

    def __init__(self, registry: Registry) -> None:
        super().__init__(logging.WARNING)
        self._registry = registry
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(WAITING)
        self._dropped = 0
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="event-log", daemon=True)
        self._thread.start()

    def install(self) -> None:
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Called wherever something is logged: never waits, never raises."""
        # What the writing itself logs would be written, which logs again.
        if self._closed or record.name.startswith(SILENT) or threading.current_thread() is self._thread:
            return
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, for two seconds at most, and end the thread."""
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
        if not self._closed:
            self._closed = True
            try:
                self._records.put(None, timeout=1.0)
            except queue.Full:
                self._registry_is_gone()
            self._thread.join(2.0)
        super().close()

    def _registry_is_gone(self) -> None:
        """The writer is stuck: throw away what waits, so that the end can be told to it."""
        while True:
            try:
                self._records.get_nowait()
            except queue.Empty:
                break
        self._records.put_nowait(None)

    def _write_all(self) -> None:
        while (record := self._records.get()) is not None:
            self._write(record)
            dropped, self._dropped = self._dropped, 0
            if dropped:
                self._add("warning", "log", f"{dropped:,} messages came too fast to be kept; the log file has them.")

    def _write(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # a message and its arguments that do not go together: still better than nothing
            message = str(record.msg)
        details: dict[str, object] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            details["error"] = "".join(traceback.format_exception_only(error)).strip()
            details["traceback"] = "".join(traceback.format_exception(error))[-CHARACTERS:]
        level = "error" if record.levelno >= logging.ERROR else "warning"
        self._add(level, record.name.rpartition(".")[2], message[:CHARACTERS], details)

    def _add(self, level: str, source: str, message: str, details: dict[str, object] | None = None) -> None:
        from app.registry.records import EventLevel

        known: EventLevel = EventLevel(level)
        try:
            self._registry.events.add(known, source, message, details=details)
        except Exception:  # the registry is closed or its disk full: the log file has the message all the same
            self._dropped = 0
