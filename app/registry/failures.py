"""What a database reports, told as what happened, why, and what to do about it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import peewee

from app.errors import DiskFullError, RegistryError, ShardboardError
from app.registry.location import Location, SqliteFile, sqlite_cause

try:
    from psycopg import Error as ServerError
except ImportError:  # no PostgreSQL driver: then none of its errors either

    class ServerError(Exception):  # type: ignore[no-redef]
        pass


DATABASE_ERRORS = (peewee.PeeweeException, sqlite3.Error, ServerError)
"""Peewee wraps most errors in its own, but not those that appear while rows are fetched."""


@contextmanager
def explained(location: Location) -> Iterator[None]:
    """Turn a database's errors inside into ShardboardErrors; everything else passes as it is."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise explanation(error, location) from error


def origin(error: BaseException) -> BaseException:
    """What went wrong first, when rolling back failed too.

    SQLite rolls back by itself when the disk is full; Peewee's own rollback then finds no transaction, and all that
    its error tells of the reason is its context.
    """
    first = current = error
    while isinstance(current, DATABASE_ERRORS) and (before := current.__cause__ or current.__context__) is not None:
        current = before
        if isinstance(current, peewee.PeeweeException) or not isinstance(current, DATABASE_ERRORS):
            first = current
    return first


def explanation(error: Exception, location: Location) -> ShardboardError:
    """The error for the user behind a database's error."""
    # The first line: a server's further ones repeat the row that it refused, prompt and all.
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    if isinstance(location, SqliteFile):
        return _sqlite(error, reason, location)
    if isinstance(error, peewee.ImproperlyConfigured):
        return RegistryError(
            f"The registry {location.name} needs a PostgreSQL driver, and none is installed.",
            "Install it with: pip install 'psycopg[binary]'",
        )
    if isinstance(error, peewee.OperationalError):
        return RegistryError(
            f"The registry's database {location.name} cannot be reached: {reason}",
            "Check that the server runs and that the address, the user and the password are right.",
        )
    return RegistryError(f"The registry {location.name} failed: {reason}")


def _sqlite(error: Exception, reason: str, location: SqliteFile) -> ShardboardError:
    cause = sqlite_cause(error)
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the rest of an extended code says only where it happened
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return RegistryError(
            f"The registry {location.name} is damaged or is no registry: {reason}.",
            f"Move the file away and copy the newest backup from {location.backups} to its place; "
            "without a backup, Shardboard starts with an empty registry.",
        )
    # A failed rollback may have taken the place of SQLite's own error behind Peewee's; the sentence is still there.
    if code == sqlite3.SQLITE_FULL or "disk is full" in reason:
        return DiskFullError(
            f"No space is left for the registry {location.name}.", "Free some disk space and try again."
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return RegistryError(
            f"The registry {location.name} cannot be written: {reason}.",
            "Check the permissions of the file and of its folder, or choose another folder with SHARDBOARD_HOME.",
        )
    if code == sqlite3.SQLITE_BUSY:
        return RegistryError(
            f"The registry {location.name} is held by another program: {reason}.",
            "Close the program that has the file open and try again.",
        )
    return RegistryError(f"The registry {location.name} failed: {reason}.")
