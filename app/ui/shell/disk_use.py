"""How much disk a folder takes; reads many small directory entries, so never in the GUI thread."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.paths import Home


@dataclass(frozen=True)
class DiskUse:
    """Bytes."""

    models: int
    logs: int
    agents: int
    """What agents of this machine keep of the models."""
    free: int


def folder_bytes(folder: Path) -> int:
    """Of all files below, as long as they are; what vanishes meanwhile counts nothing."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                total += Path(place, file).lstat().st_size
    return total


def measure(home: Home) -> DiskUse:
    import shutil

    return DiskUse(
        models=folder_bytes(home.models),
        logs=folder_bytes(home.logs),
        agents=folder_bytes(home.agents),
        free=shutil.disk_usage(home.root).free,
    )
