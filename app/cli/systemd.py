"""The controller's unit for systemd, filled in for this installation and this user."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from app.errors import BadInput
from app.paths import Home

ROOT = Path(__file__).resolve().parent.parent.parent
TEMPLATE = ROOT / "deploy" / "systemd" / "shardboard.service"
PLACE = "/opt/shardboard"
"""Where the shipped unit supposes this repository to be."""
HIDDEN = ("/home", "/root", "/run/user")
"""What ProtectHome=yes hides from a service."""

INSTALL = """Install it with:
  ./run serve --systemd OPTIONS… | sudo tee /etc/systemd/system/shardboard.service
  sudo systemctl daemon-reload
  sudo systemctl enable --now shardboard"""


def service_unit(host: str | None, port: int | None, drain_seconds: float) -> str:
    """The shipped unit with this place, these options, and who it is to run as.

    For root it keeps the user and the state folder that systemd makes. For anybody else it runs as that user, with
    that user's home of Shardboard, so that the commands that the user gives go to it.

    Raises BadInput where there is no unit to fill in: in an installation from a wheel.
    """
    try:
        shipped = TEMPLATE.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"The unit {TEMPLATE} is not there.", "It comes with Shardboard's repository.") from error
    options = ["--drain-seconds", f"{drain_seconds:g}"]
    options += ["--host", host] if host is not None else []
    options += ["--port", str(port)] if port is not None else []
    command = " ".join([quoted(sys.executable), quoted(str(ROOT / "main.py")), "serve", *map(quoted, options)])
    lines: dict[str, str | None] = {
        "ExecStart=": f"ExecStart={command} $SERVE_OPTIONS",
        "TimeoutStopSec=": f"TimeoutStopSec={drain_seconds + 30:g}",
    }
    if not _is_root():
        lines |= _as_this_user(Home.find().create())
    _, section, body = shipped.partition("[Unit]\n")
    filled = [_filled(line, lines) for line in f"{section}{body}".splitlines()]
    told = "\n".join(f"# {line}".rstrip() for line in INSTALL.splitlines())
    return f"# Shardboard's controller, as installed in {ROOT}.\n{told}\n\n" + "\n".join(
        line.replace(PLACE, str(ROOT)) for line in filled if line is not None
    )


def cannot_read() -> str:
    """What stands in the way of a service that systemd makes a user for; empty when nothing does."""
    if not _is_root():
        return ""
    lying = [path for path in (str(ROOT), sys.base_prefix) if path.startswith(HIDDEN)]
    if not lying:
        return ""
    return (
        f"{' and '.join(lying)} cannot be read by a service without root's rights. Put the repository into {PLACE}, "
        "and make its environment with a Python outside home folders: SHARDBOARD_PYTHON=/usr/bin/python3 ./run --help"
    )


def quoted(text: str) -> str:
    """One word of a unit's command line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != text or any(character.isspace() for character in text) else text


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _as_this_user(home: Home) -> dict[str, str | None]:
    """The lines that differ for a user who runs it from where it lies; None takes a line away."""
    cache = os.environ.get("MODEL_CACHE_DIR")
    places = [f'Environment="SHARDBOARD_HOME={home.root}"']
    places += [f'Environment="MODEL_CACHE_DIR={home.models}"'] if cache else []
    return {
        'Environment="SHARDBOARD_HOME=': "\n".join(places),
        "# Registry, keys": f"# The home of {getpass.getuser()}: commands of this user go to this controller.",
        "DynamicUser=": None,
        "User=": f"User={getpass.getuser()}",
        "StateDirectory=": f"ReadWritePaths={quoted(str(home.root))} {quoted(str(home.models))}",
        "StateDirectoryMode=": None,
        "ProtectHome=": "ProtectHome=read-only",
    }


def _filled(line: str, lines: dict[str, str | None]) -> str | None:
    for beginning, instead in lines.items():
        if line.startswith(beginning):
            return instead
    return line
