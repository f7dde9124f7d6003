"""Version 3: traces of runs, keys of the HTTP API, and who asked. Released, therefore never edited."""

from __future__ import annotations

from peewee import (
    AutoField,
    BigIntegerField,
    BlobField,
    CharField,
    Database,
    DateTimeField,
    Model,
    SqliteDatabase,
    TextField,
)
from playhouse.migrate import SchemaMigrator
from playhouse.sqlite_ext import AutoIncrementField


def up(migrator: SchemaMigrator, db: Database) -> None:
    identifier = AutoIncrementField if isinstance(db, SqliteDatabase) else AutoField  # as in version 1

    class Trace(Model):
        id = identifier()
        kind = CharField()
        subject = CharField()
        size = BigIntegerField()
        data = BlobField()
        created_at = DateTimeField()

        class Meta:
            database = db
            table_name = "trace"
            indexes = (
                (("kind", "subject"), True),
                (("created_at", "id", "size"), False),
            )

    class ApiKey(Model):
        id = identifier()
        name = CharField(unique=True)
        digest = CharField(unique=True)
        hint = CharField()
        created_at = DateTimeField()
        last_used_at = DateTimeField(null=True)

        class Meta:
            database = db
            table_name = "api_key"

    db.create_tables([Trace, ApiKey])
    migrator.migrate(migrator.add_column("inference_request", "origin", TextField(default="{}")))
