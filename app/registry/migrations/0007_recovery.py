"""Version 7: how a deployment's answers go on when a stage is lost. Released, therefore never edited."""

from __future__ import annotations

from peewee import CharField, Database, IntegerField
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    migrator.migrate(
        migrator.add_column("deployment", "wait_seconds", IntegerField(default=30)),
        migrator.add_column("deployment", "recovery", CharField(default="fast")),
    )
