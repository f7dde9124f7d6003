"""Version 11: a deployment remembers what it was planned for. Released, therefore never edited."""

from __future__ import annotations

from peewee import CharField, Database
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    migrator.migrate(migrator.add_column("deployment", "aim", CharField(default="")))
