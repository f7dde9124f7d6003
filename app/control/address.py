"""Where the control door of a home is: a small file that the controller writes and removes again."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from app.atomic_file import write_atomically
from app.paths import Home


class DoorAddress(Struct, frozen=True, kw_only=True):
    """What a command needs to know to knock."""

    address: str
    pid: int
    boot: str
    """Of the controller's process; an old file of a crashed one is told by it."""

    @staticmethod
    def path(home: Home) -> Path:
        return home.root / "control.json"

    @classmethod
    def read(cls, home: Home) -> DoorAddress | None:
        """The address in a home; None when there is none, or its process is gone."""
        try:
            found = msgspec.json.decode(cls.path(home).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None
        return found if _lives(found.pid) else None

    def write(self, home: Home) -> None:
        """Raises OSError when the home cannot be written."""
        write_atomically(self.path(home), msgspec.json.encode(self) + b"\n")
        if os.name != "nt":
            self.path(home).chmod(0o600)

    def remove(self, home: Home) -> None:
        """Remove the file if it is still this controller's."""
        if self.read(home) == self:
            with contextlib.suppress(OSError):
                self.path(home).unlink()


def _lives(pid: int) -> bool:
    """Whether the process runs: one that was killed and that nobody has collected does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
