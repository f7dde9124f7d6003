"""Version 12: what was asked over the Responses API, and which request answers it. Released, therefore never edited."""

from __future__ import annotations

from peewee import AutoField, CharField, Database, DateTimeField, ForeignKeyField, Model, TextField
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    class InferenceRequest(Model):
        """As much of it as a foreign key names."""

        id = AutoField()

        class Meta:
            database = db
            table_name = "inference_request"

    class Response(Model):
        id = CharField(primary_key=True)
        request = ForeignKeyField(InferenceRequest, on_delete="CASCADE")
        asked = TextField()
        created_at = DateTimeField()

        class Meta:
            database = db
            table_name = "response"

    db.create_tables([Response])
