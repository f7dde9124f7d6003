"""Version 9: what was measured of the links between nodes. Released, therefore never edited."""

from __future__ import annotations

from peewee import (
    AutoField,
    CharField,
    Database,
    DateTimeField,
    DoubleField,
    ForeignKeyField,
    IntegerField,
    Model,
    SqliteDatabase,
    TextField,
)
from playhouse.migrate import SchemaMigrator
from playhouse.sqlite_ext import AutoIncrementField


def up(migrator: SchemaMigrator, db: Database) -> None:
    identifier = AutoIncrementField if isinstance(db, SqliteDatabase) else AutoField  # as in version 1

    class WorkerNode(Model):
        """As much of it as a foreign key names."""

        id = AutoField()

        class Meta:
            database = db
            table_name = "worker_node"

    class NodeLink(Model):
        id = identifier()
        source = ForeignKeyField(WorkerNode, on_delete="CASCADE")
        target = ForeignKeyField(WorkerNode, on_delete="CASCADE")
        outcome = CharField()
        detail = TextField()
        rtt = DoubleField(null=True)
        least_rtt = DoubleField(null=True)
        jitter = DoubleField(null=True)
        clock_offset = DoubleField(null=True)
        bytes_per_second = DoubleField(null=True)
        segment_bytes = IntegerField(null=True)
        created_at = DateTimeField()

        class Meta:
            database = db
            table_name = "node_link"

    db.create_tables([NodeLink])
