"""Where an agent keeps its state: key, trusted controllers, parts, log. One agent per folder."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import platformdirs

from worker_agent.wire.errors import AgentError
from worker_agent.wire.files import write_private
from worker_agent.wire.links import AddressError, Endpoint


class HomeInUse(AgentError):
    """Another agent runs with the same state folder."""

    kind = "home_in_use"


def default_home() -> Path:
    """`SHARDBOARD_HOME/agent`, else the same under the platform's place for such data."""
    named = os.environ.get("SHARDBOARD_HOME")
    root = Path(named).expanduser() if named else Path(platformdirs.user_data_dir("shardboard", appauthor=False))
    return root / "agent"


@dataclass(frozen=True)
class AgentHome:
    """The files and folders under an agent's state folder."""

    root: Path

    @property
    def controllers(self) -> Path:
        """Public keys of trusted controllers, one file each."""
        return self.root / "controllers"

    @property
    def parts(self) -> Path:
        return self.root / "parts"

    @property
    def aside(self) -> Path:
        """States of sequences that yield to others. Of use to one process alone, so nothing stays here."""
        return self.root / "aside"

    @property
    def log(self) -> Path:
        return self.root / "agent.log"

    def last_endpoint(self) -> Endpoint | None:
        """Where a controller has taken this agent in, and so looks for it; None if none has."""
        try:
            return Endpoint.parse(self._address.read_text("utf-8"), to_listen=True)
        except (OSError, UnicodeDecodeError, AddressError):
            return None

    def remember(self, endpoint: Endpoint) -> None:
        """A controller has taken this agent in there: it listens there again, unless told otherwise."""
        write_private(self._address, f"{endpoint}\n".encode())

    @property
    def _address(self) -> Path:
        return self.root / "address"

    def create(self) -> None:
        """Make the folders, private to the user where the system knows such a thing. Raises AgentError."""
        try:
            for folder in (self.root, self.controllers, self.parts):
                folder.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
        except OSError as error:
            raise AgentError(
                f"The state folder {self.root} cannot be used ({error}). Choose one with --home."
            ) from error

    def lock(self) -> IO[str]:
        """Take the folder for this process; the lock ends with the process, or when the file is closed.

        Raises:
            HomeInUse: another agent has it.
        """
        path = self.root / "agent.lock"
        file = path.open("a+", encoding="ascii")
        try:
            lock_file(file)
        except OSError as error:
            file.seek(0)
            holder = file.read(20).strip()
            file.close()
            raise HomeInUse(
                f"Another agent{f' (process {holder})' if holder else ''} runs with the state folder {self.root}. "
                "End it, or give this one a folder of its own with --home."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file


if sys.platform == "win32":
    import msvcrt

    _FAR_BYTE = 4096
    """Windows locks bytes against reading too: lock one far behind the process number."""

    def lock_file(file: IO[str]) -> None:
        """Lock an open file for this process, or raise OSError at once when another one has it."""
        file.seek(_FAR_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:
    import fcntl

    def lock_file(file: IO[str]) -> None:
        """Lock an open file for this process, or raise OSError at once when another one has it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
