"""The agent's unit for systemd, filled in for this installation: `agent.sh --systemd OPTIONS…` prints it."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bootstrap.faults import SetupError

NAME = "shardboard-agent@.service"
PLACE = "/opt/shardboard"
"""Where the shipped unit supposes the installation to be."""
HIDDEN = ("/home", "/root", "/run/user")
"""What ProtectHome=yes hides from a service."""


def agent_unit(root: Path, python: Path, options: Sequence[str]) -> str:
    """The unit for the agent in `root`, run by `python` with these options; with how to install it, as comments.

    For root it keeps the user that systemd makes; for anybody else the agent runs as that user, who can read
    where it lies. Its state is systemd's to keep either way.

    Raises:
        SetupError: the shipped unit is not there.
    """
    unit = _launch_folder(root) / NAME
    if not unit.exists():
        raise SetupError(
            f"There is no {NAME} in {unit.parent}.", "Copy it there from Shardboard's worker_agent/launch."
        )
    _, section, body = unit.read_text(encoding="utf-8").partition("[Unit]\n")
    words = " ".join(quoted(option) for option in options)
    lines = {
        "ExecStart=": f"ExecStart={quoted(str(python))} -P -m worker_agent --home ${{STATE_DIRECTORY}} "
        + (f"{words} $AGENT_OPTIONS" if words else "$AGENT_OPTIONS"),
        "Documentation=": f"Documentation=file://{root}/README.md",
    }
    if not _is_root():
        lines |= {
            "DynamicUser=": f"User={getpass.getuser()}",
            "ProtectHome=": "ProtectHome=read-only",
        }
    filled = "\n".join(_filled(line, lines) for line in f"{section}{body}".splitlines())
    return f"# Shardboard's agent, as installed in {root}.\n{_comment(how_to_install(root))}\n\n{filled}"


def how_to_install(root: Path) -> str:
    """Three commands."""
    return f"""Install it with:
  {_launch_folder(root) / "agent.sh"} --systemd OPTIONS… | sudo tee /etc/systemd/system/{NAME}
  sudo systemctl daemon-reload
  sudo systemctl enable --now shardboard-agent@main"""


def cannot_read(root: Path) -> str:
    """What stands in the way of a service that systemd makes a user for; empty when nothing does."""
    lying = [path for path in (str(root), sys.base_prefix) if path.startswith(HIDDEN)]
    if not _is_root() or not lying:
        return ""
    return (
        f"{' and '.join(lying)} cannot be read by a service without root's rights. Put it into {PLACE}, and make its "
        "environment with a Python outside home folders: SHARDBOARD_PYTHON=/usr/bin/python3 agent.sh prepare"
    )


def quoted(text: str) -> str:
    """One word of a unit's command line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != text or any(character.isspace() for character in text) else text


def _launch_folder(root: Path) -> Path:
    """Where the launch script and the unit lie: in the repository, or beside a wheel, in one folder with it."""
    folder = root / "worker_agent" / "launch"
    return folder if folder.is_dir() else root


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _filled(line: str, lines: dict[str, str]) -> str:
    return next((instead for beginning, instead in lines.items() if line.startswith(beginning)), line)


def _comment(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())
