"""One controller per registry: the operating system, or the server, holds the lock and frees it when a process dies."""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from peewee import Database

from app.errors import RegistryError


class ControllerLock(Protocol):
    """Held by the one process that drives the nodes. Taken again, without harm, at every connect of the writer."""

    def acquire(self, database: Database) -> None:
        """Take the lock or raise RegistryError that names the holder. Does nothing when it is held already."""

    def release(self, database: Database) -> None:
        """Give it back. `database` is closed already when the connection was lost."""


if sys.platform == "win32":
    import msvcrt

    # Locked bytes cannot be read by others on Windows, so the locked one lies far beyond the text.
    _LOCKED_BYTE = 1 << 30

    def _try_lock(handle: int) -> bool:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(handle, 0, os.SEEK_SET)
        return True
else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        # flock and not lockf: it also keeps out a second opening in the same process.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class FileLock:
    """A locked file beside an SQLite registry, with the holder's pid and host in it.

    The file stays when the lock is released: removing it could take it from under a process that just opened it.
    """

    def __init__(self, path: Path, registry: str) -> None:
        self._path = path
        self._registry = registry
        self._handle: int | None = None

    def acquire(self, database: Database) -> None:
        if self._handle is not None:
            return
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise RegistryError(
                f"The registry's lock {self._path} cannot be written: {error.strerror or error}.",
                "Make the folder writable, or choose another one with SHARDBOARD_HOME.",
            ) from error
        if not _try_lock(handle):
            os.close(handle)
            raise _in_use(self._registry, self._holder())
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._handle = handle

    def release(self, database: Database) -> None:
        if self._handle is None:
            return
        with suppress(OSError):
            os.ftruncate(self._handle, 0)
        os.close(self._handle)
        self._handle = None

    def _holder(self) -> str:
        # The holder writes its name just after it has locked: give it a moment.
        for _ in range(10):
            with suppress(OSError):
                if text := self._path.read_text(encoding="utf-8", errors="replace").strip():
                    return text
            time.sleep(0.02)
        return "an unknown process"


def _in_use(registry: str, holder: str) -> RegistryError:
    return RegistryError(
        f"The registry {registry} is in use by another Shardboard ({holder}).",
        "Close the other Shardboard first, or give this one a registry of its own with SHARDBOARD_HOME.",
    )


_KEY = "hashtextextended('shardboard registry ' || current_schema(), 0)"

_HOLDER = f"""
SELECT activity.application_name FROM pg_locks AS lock JOIN pg_stat_activity AS activity USING (pid)
WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 1
AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND ((lock.classid::bigint << 32) | lock.objid::bigint) = {_KEY}
"""


class ServerLock:
    """A PostgreSQL advisory lock of the writer's own connection: who loses the connection loses the lock with it,
    and has to take it again before the next write."""

    def __init__(self, registry: str) -> None:
        self._registry = registry
        self._connection: object | None = None

    def acquire(self, database: Database) -> None:
        database.connect(reuse_if_open=True)
        connection: object = database.connection()  # type: ignore[no-untyped-call]
        if self._connection is connection:
            return
        if not _first(database, f"SELECT pg_try_advisory_lock({_KEY})"):
            name = str(_first(database, _HOLDER) or "an unknown process")
            holder = name.replace("shardboard pid", "process")
            raise _in_use(self._registry, holder)
        self._connection = connection

    def release(self, database: Database) -> None:
        if self._connection is not None and not database.is_closed():
            _first(database, f"SELECT pg_advisory_unlock({_KEY})")
        self._connection = None


def _first(database: Database, sql: str) -> object:
    """The first value of the first row, None without one."""
    row = database.execute_sql(sql).fetchone()  # type: ignore[no-untyped-call]
    return row[0] if row else None
