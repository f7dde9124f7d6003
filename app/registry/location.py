"""Where the registry is kept: an SQLite file or a PostgreSQL server, and how each of them is opened."""

from __future__ import annotations

import os
import socket
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from peewee import Database, PostgresqlDatabase, SqliteDatabase
from playhouse import db_url

from app.errors import RegistryError
from app.registry.lock import ControllerLock, FileLock, ServerLock

_BUSY_SECONDS = 30
"""How long a write waits for another process that is writing, such as a command beside the window."""

_CONNECT_SECONDS = 10

_NO_LOCKS = ("cockroachdb", "crdb")


class Location(Protocol):
    """What the rest of the package needs to know of a database."""

    @property
    def name(self) -> str:
        """What a user may read: no password in it."""

    @property
    def begin(self) -> tuple[str, ...]:
        """What to begin a writing transaction with."""

    def prepare(self) -> None:
        """Make what has to be there first, or raise RegistryError."""

    def writer(self) -> Database: ...

    def reader(self) -> Database: ...

    def lock(self) -> ControllerLock: ...


@dataclass(frozen=True)
class SqliteFile:
    """An SQLite file in WAL mode: readers never wait for the writer, nor the writer for them."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def begin(self) -> tuple[str, ...]:
        # A deferred transaction that turns from reading to writing fails at once when somebody else has written
        # meanwhile, whatever the timeout; an immediate one waits.
        return ("IMMEDIATE",)

    @property
    def backups(self) -> Path:
        return self.path.parent / "backups"

    def prepare(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Made here and not by SQLite, so that only the user can read the prompts in it.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise RegistryError(
                f"The registry {self.path} cannot be written: {error.strerror or error}.",
                "Choose a folder that you may write to with SHARDBOARD_HOME, or change the folder's permissions.",
            ) from error

    def writer(self) -> Database:
        return self._database(journal_mode="wal", synchronous="full", foreign_keys=1)

    def reader(self) -> Database:
        return self._database(query_only=1)

    def lock(self) -> ControllerLock:
        return FileLock(self.path.with_name(self.path.name + ".lock"), self.name)

    def _database(self, **pragmas: str | int) -> Database:
        # A thread's connection is closed by whichever thread notices that it has ended.
        return SqliteDatabase(str(self.path), pragmas=pragmas, timeout=_BUSY_SECONDS, check_same_thread=False)


@dataclass(frozen=True)
class PostgresqlServer:
    """A database on a PostgreSQL server, by URL."""

    url: str = field(repr=False)

    @property
    def name(self) -> str:
        parts = urlsplit(self.url)
        if parts.password is None:
            return self.url
        return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")).geturl()

    @property
    def begin(self) -> tuple[str, ...]:
        return ()

    def prepare(self) -> None:
        """Nothing: databases on a server are their administrator's to make."""

    def writer(self) -> Database:
        # A refused second controller reads from here whom to name (63 bytes is all that the server keeps).
        return self._database(application_name=f"shardboard pid {os.getpid()} on {socket.gethostname()}"[:63])

    def reader(self) -> Database:
        own = db_url.parse(self.url).get("options", "")
        return self._database(
            application_name="shardboard reader", options=f"{own} -c default_transaction_read_only=on".strip()
        )

    def lock(self) -> ControllerLock:
        return ServerLock(self.name)

    def _database(self, **parameters: str) -> Database:
        database: Database = db_url.connect(
            self.url,
            unquote_password=True,
            unquote_user=True,
            prefer_psycopg3=True,
            connect_timeout=_CONNECT_SECONDS,
            **parameters,
        )
        return database


def locate(location: str | Path) -> SqliteFile | PostgresqlServer:
    """The location that a path or a URL names. Raises RegistryError for a database that cannot hold a registry."""
    text = str(location)
    if "://" not in text:
        return _sqlite(text)
    scheme = urlsplit(text).scheme
    if scheme == "sqlite":
        return _sqlite(str(db_url.parse(text)["database"]))
    kind = db_url.schemes.get(scheme)
    # Pools and CockroachDB are kinds of it too; but each thread has its own connection here, and the latter no locks.
    if kind is None or not issubclass(kind, PostgresqlDatabase) or "+pool" in scheme or scheme in _NO_LOCKS:
        raise RegistryError(
            f"The registry cannot be kept at {scheme}://…: Shardboard keeps it in SQLite or PostgreSQL.",
            "Give the path of a file, or a URL such as postgresql://user@host/database.",
        )
    try:
        db_url.connect(text)
    except ValueError as error:
        raise RegistryError(
            "The registry's URL names no database.", "Write postgresql://user@host/database."
        ) from error
    return PostgresqlServer(text)


def _sqlite(path: str) -> SqliteFile:
    if path in ("", ":memory:"):
        raise RegistryError(
            "The registry cannot be kept in memory: each thread reads through a connection of its own.",
            "Give the path of a file.",
        )
    # Resolved, so that one file under two names is still one registry with one lock.
    return SqliteFile(Path(path).expanduser().resolve())


def sqlite_cause(error: BaseException) -> sqlite3.Error | None:
    """The SQLite error behind what Peewee raised, which carries the code."""
    current: BaseException | None = error
    while current is not None and not isinstance(current, sqlite3.Error):
        current = current.__cause__ or current.__context__
    return current
