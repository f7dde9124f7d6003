"""Version 5: in what a deployment's keys and values are kept. Released, therefore never edited."""

from __future__ import annotations

from peewee import CharField, Database
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    migrator.migrate(migrator.add_column("deployment", "kv_dtype", CharField(default="computed")))
