"""The launch script as a user starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def start_agent(
    folder: Path, environment: dict[str, str], *arguments: str, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(folder / "agent.sh"), *arguments],
        env={**environment, "SHARDBOARD_PYTHON": python},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
