"""Version 6: what the measuring of models found. Released, therefore never edited."""

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

    class LibraryModel(Model):
        """As much of it as a foreign key names."""

        id = AutoField()

        class Meta:
            database = db
            table_name = "model"

    class Measurement(Model):
        id = identifier()
        model = ForeignKeyField(LibraryModel, on_delete="CASCADE")
        serving = TextField()
        nodes = TextField()
        text = CharField()
        tokens = IntegerField()
        perplexity = DoubleField()
        reference = TextField(null=True)
        reference_perplexity = DoubleField(null=True)
        greedy_tokens = IntegerField(null=True)
        same_tokens = IntegerField(null=True)
        remark = TextField()
        created_at = DateTimeField()

        class Meta:
            database = db
            table_name = "measurement"

    db.create_tables([Measurement])
