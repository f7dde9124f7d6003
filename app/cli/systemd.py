"""Units for systemd, filled in for this installation."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TEMPLATE = ROOT / "deploy" / "systemd" / "shardboard.service"
PLACE = "/opt/shardboard"
"""Where the shipped unit supposes this repository to be."""


def service_unit(host: str | None, port: int | None, drain_seconds: float) -> str:
    """The controller's unit for this repository and its environment, with the commands that install it."""
    options = [f"--drain-seconds {drain_seconds:g}"]
    options += [f"--host {host}"] if host is not None else []
    options += [f"--port {port}"] if port is not None else []
    unit = TEMPLATE.read_text(encoding="utf-8")
    unit = unit.replace(f"{PLACE}/.venv/bin/python", sys.executable).replace(PLACE, str(ROOT))
    unit = unit.replace("serve $SERVE_OPTIONS", f"serve {' '.join(options)} $SERVE_OPTIONS")
    return unit.replace("TimeoutStopSec=60", f"TimeoutStopSec={drain_seconds + 30:g}")
