"""Version 13: what was predicted of each stage of a request beside what came. Released, therefore never edited."""

from __future__ import annotations

from peewee import (
    AutoField,
    CharField,
    Database,
    DateTimeField,
    DoubleField,
    ForeignKeyField,
    Model,
    SqliteDatabase,
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

    class StageComparison(Model):
        id = identifier()
        node = ForeignKeyField(WorkerNode, on_delete="CASCADE")
        following = ForeignKeyField(WorkerNode, null=True, on_delete="CASCADE")
        model_name = CharField()
        dtype = CharField()
        quantize = CharField()
        token_predicted = DoubleField()
        token_measured = DoubleField()
        prompt_predicted = DoubleField()
        prompt_measured = DoubleField()
        way_predicted = DoubleField()
        way_measured = DoubleField()
        read_bytes_per_second = DoubleField()
        flops_per_second = DoubleField()
        rtt = DoubleField(null=True)
        created_at = DateTimeField()

        class Meta:
            database = db
            table_name = "stage_comparison"

    db.create_tables([StageComparison])
