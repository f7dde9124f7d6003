"""Warnings about what others send: each reason now and then, and not so many that they fill a log."""

from __future__ import annotations

import logging
import time

AGAIN_SECONDS = 10.0
"""How long the same reason is not told again."""
MOST_REASONS = 100
"""Told in that time; whoever comes with a new key each time has a new reason each time."""


class Complaints:
    """Belongs to one thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: dict[str, float] = {}
        self._left_out = 0

    def warn(self, why: str) -> None:
        """Write it to the log, unless that was done a moment ago."""
        now = time.monotonic()
        if why in self._told and now - self._told[why] < AGAIN_SECONDS:
            return
        if len(self._told) >= MOST_REASONS:
            self._told = {each: at for each, at in self._told.items() if now - at < AGAIN_SECONDS}
        if len(self._told) >= MOST_REASONS:
            self._left_out += 1
            return
        self._told[why] = now
        more = f" (and {self._left_out} other warnings were left out)" if self._left_out else ""
        self._left_out = 0
        self._log.warning("%s%s", why, more)
