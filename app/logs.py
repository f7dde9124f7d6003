"""Where the program writes what happens behind the scenes: a file in the home, which does not grow for ever."""

from __future__ import annotations

import logging
import logging.handlers

from app.paths import Home

LOG_BYTES = 2_000_000


def log_to_file(home: Home) -> None:
    """Have everything from INFO on go into the home's controller.log, unless logging is set up already."""
    root = logging.getLogger()
    if root.handlers:
        return
    file = home.logs / "controller.log"
    handler = logging.handlers.RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
