"""Version 7: how long a deployment's answers wait for a lost node. Released, therefore never edited."""

from __future__ import annotations

from peewee import Database, IntegerField
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    migrator.migrate(migrator.add_column("deployment", "wait_seconds", IntegerField(default=30)))
