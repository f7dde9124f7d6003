"""Version 8: what the agents call a request that is under way. Released, therefore never edited."""

from __future__ import annotations

from peewee import Database, TextField
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    migrator.migrate(migrator.add_column("inference_request", "sequence", TextField(default="{}")))
