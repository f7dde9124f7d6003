"""Version 2: jobs, and indexes for long listings that are filtered. Released, therefore never edited."""

from __future__ import annotations

from peewee import AutoField, CharField, Database, DateTimeField, Model, SqliteDatabase, TextField
from playhouse.migrate import SchemaMigrator
from playhouse.sqlite_ext import AutoIncrementField


def up(migrator: SchemaMigrator, db: Database) -> None:
    identifier = AutoIncrementField if isinstance(db, SqliteDatabase) else AutoField  # as in version 1

    class Job(Model):
        id = identifier()
        kind = CharField()
        title = TextField()
        model_name = CharField(null=True)
        status = CharField()
        error = TextField(null=True)
        details = TextField()
        created_at = DateTimeField()
        started_at = DateTimeField(null=True)
        completed_at = DateTimeField(null=True)

        class Meta:
            database = db
            table_name = "job"
            indexes = (
                (("created_at", "id", "status", "kind"), False),
                (("status", "created_at", "id"), False),
            )

    db.create_tables([Job])
    # Names spelled out: they are part of the released schema, whatever a later Peewee would call them.
    migrator.migrate(
        migrator.drop_index("inference_request", "inferencerequest_created_at_id"),
        migrator.add_index(
            "inference_request", ("created_at", "id", "status", "model_name"), name="inference_request_newest"
        ),
        migrator.drop_index("event", "event_at_id"),
        migrator.add_index("event", ("at", "id", "level", "source", "node_id"), name="event_newest"),
        migrator.add_index("event", ("source", "at", "id"), name="event_source"),
    )
