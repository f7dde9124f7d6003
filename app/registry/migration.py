"""Bringing a registry's tables up to date, and refusing what is no registry or is newer than this program."""

from __future__ import annotations

from pathlib import Path

from peewee import Database
from playhouse.migrations import MigrationError, Runner

from app.errors import RegistryError
from app.registry.backup import back_up
from app.registry.failures import DATABASE_ERRORS
from app.registry.location import Location, SqliteFile
from app.registry.tables import TABLES

MIGRATIONS = Path(__file__).parent / "migrations"

HISTORY = "shardboard_migration"
"""The table that says which migrations a registry has been through. Its name tells a registry from other databases."""


class Migration:
    """What stands between a registry and the tables of this program.

    Args:
        folder: the migrations that this program knows.
    """

    def __init__(self, location: Location, database: Database, folder: Path) -> None:
        self._location = location
        self._database = database
        self._runner = Runner(database, str(folder), table_name=HISTORY)

    def pending(self) -> list[str]:
        """Names of the migrations still to run, oldest first. Raises RegistryError for a database not to be touched."""
        known = [migration.name for migration in self._runner.migrations()]
        applied = self._runner.applied()
        self._refuse_foreign(bool(applied))
        if unknown := sorted(set(applied) - set(known)):
            raise RegistryError(
                f"The registry {self._location.name} was written by a newer Shardboard: it has been through "
                f"{unknown[-1]}, and this one knows migrations only up to {known[-1]}.",
                self._way_back(),
            )
        return [name for name in known if name not in applied]

    def run(self) -> list[str]:
        """Apply what is pending, after a backup, and return the names. Each migration is all or nothing."""
        names = self.pending()
        applied = sorted(self._runner.applied())
        if names and applied and isinstance(self._location, SqliteFile):
            self._refuse_damaged()
            back_up(self._location, applied[-1])
        for name in names:
            try:
                self._runner.up(name)
            except (MigrationError, ValueError, *DATABASE_ERRORS) as error:
                raise RegistryError(
                    f"The registry {self._location.name} could not be brought up to date: {name} failed: {error}.",
                    f"It is as it was before {name}. {self._way_back()}",
                ) from error
        return names

    def _refuse_foreign(self, is_registry: bool) -> None:
        if is_registry:
            return
        found = set(self._database.get_tables()) - {HISTORY, "sqlite_sequence"}
        if not isinstance(self._location, SqliteFile):
            # A server's database may well hold other programs' tables, as long as none has a name of ours.
            found &= {table._meta.table_name for table in TABLES}
        if found:
            raise RegistryError(
                f"{self._location.name} is another program's database: it has the table {min(found)!r} and no history "
                "of a registry.",
                "Give the path of a registry, or of a file that does not exist yet.",
            )

    def _refuse_damaged(self) -> None:
        # Only before a change: reading all of a big file at every start would take seconds.
        verdict = self._database.execute_sql("PRAGMA quick_check(1)").fetchone()[0]  # type: ignore[no-untyped-call]
        if verdict != "ok":
            raise RegistryError(
                f"The registry {self._location.name} is damaged ({verdict}) and was not brought up to date.",
                "Move it away and put a backup in its place, or start with an empty registry.",
            )

    def _way_back(self) -> str:
        if isinstance(self._location, SqliteFile):
            return f"Start the newer version again, or put a backup from {self._location.backups} in the file's place."
        return "Start the newer version again, or restore a backup of the database."
