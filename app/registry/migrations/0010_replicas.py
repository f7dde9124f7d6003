"""Version 10: deployments that are each other's replicas. Released, therefore never edited."""

from __future__ import annotations

from peewee import CharField, Database
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    migrator.migrate(migrator.add_column("deployment", "replica_of", CharField(default="")))
