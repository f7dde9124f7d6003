"""Backups of an SQLite registry, taken before its tables change."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from app.errors import DiskFullError, RegistryError
from app.registry.location import SqliteFile

KEPT = 5


def back_up(location: SqliteFile, version: str) -> Path:
    """Copy the registry, whose newest migration is `version`, into its backups folder and return the copy's path.

    Uses SQLite's backup API: a file in WAL mode is not all of its database. Only the newest few copies are kept.
    Raises DiskFullError or RegistryError; a half-written copy never has a backup's name.
    """
    folder = location.backups
    taken = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    copy = folder / f"{location.path.stem}-{taken}-{version}{location.path.suffix}"
    partial = copy.with_name(copy.name + ".partial")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        needed = location.path.stat().st_size
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise DiskFullError(
                f"Before it is brought up to date, the registry needs a backup of {needed} bytes, {folder} has {free}.",
                "Free some disk space and start again; the registry is as it was.",
            )
        _copy(location.path, partial)
        partial.replace(copy)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise RegistryError(
            f"The registry could not be backed up to {folder}: {error}.",
            "It was not changed. Make the folder writable, or move it away, and start again.",
        ) from error
    for old in sorted(folder.glob(f"{location.path.stem}-*{location.path.suffix}"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return copy


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
        target.chmod(0o600)
        reading.backup(writing)
        # The copy is one file that can be moved about by hand.
        writing.execute("PRAGMA journal_mode = DELETE")
