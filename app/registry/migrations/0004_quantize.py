"""Version 4: into what a deployment's matrices are quantized. Released, therefore never edited."""

from __future__ import annotations

from peewee import CharField, Database
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    migrator.migrate(migrator.add_column("deployment", "quantize", CharField(default="none")))
