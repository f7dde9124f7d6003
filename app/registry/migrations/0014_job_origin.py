"""Version 14: who asked for a job. Released, therefore never edited."""

from __future__ import annotations

from peewee import Database, TextField
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    migrator.migrate(migrator.add_column("job", "origin", TextField(default="{}")))
