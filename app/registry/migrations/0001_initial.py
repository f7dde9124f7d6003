"""Version 1: all tables. Released, therefore never edited: a change to the tables is a migration of its own."""

from __future__ import annotations

from peewee import (
    AutoField,
    BigIntegerField,
    BooleanField,
    CharField,
    Database,
    DateTimeField,
    ForeignKeyField,
    IntegerField,
    Model,
    SqliteDatabase,
    TextField,
)
from playhouse.migrate import SchemaMigrator
from playhouse.sqlite_ext import AutoIncrementField


def up(migrator: SchemaMigrator, db: Database) -> None:
    # Plain SQLite hands the id of the newest row out again once that row is gone; an event or a sequence number
    # of a removed node or request would then point at another one.
    identifier = AutoIncrementField if isinstance(db, SqliteDatabase) else AutoField

    class WorkerNode(Model):
        id = identifier()
        hostname = CharField(index=True)
        ip_address = CharField()
        port = IntegerField()
        public_key = CharField(index=True)
        agent_id = CharField()
        is_active = BooleanField()
        draining = BooleanField()
        last_heartbeat = DateTimeField(null=True)
        capacities = TextField()
        local_pid = IntegerField(null=True)
        created_at = DateTimeField()
        updated_at = DateTimeField()

        class Meta:
            database = db
            table_name = "worker_node"
            indexes = ((("ip_address", "port"), True),)

    class LibraryModel(Model):
        id = identifier()
        name = CharField(unique=True)
        folder = TextField()
        source = TextField()
        architecture = CharField()
        layers = IntegerField()
        parameters = BigIntegerField()
        weight_bytes = BigIntegerField()
        dtype = CharField()
        context = IntegerField()
        created_at = DateTimeField()
        updated_at = DateTimeField()

        class Meta:
            database = db
            table_name = "model"

    class Deployment(Model):
        id = CharField(primary_key=True)
        model_name = CharField(index=True)
        plan_hash = CharField()
        dtype = CharField()
        context = IntegerField()
        kv_tokens = BigIntegerField()
        epoch = BigIntegerField()
        status = CharField(index=True)
        error = TextField(null=True)
        created_at = DateTimeField()
        updated_at = DateTimeField()

        class Meta:
            database = db
            table_name = "deployment"

    class ModelShard(Model):
        id = identifier()
        node = ForeignKeyField(WorkerNode, null=True, on_delete="CASCADE")
        deployment = ForeignKeyField(Deployment, null=True, on_delete="CASCADE")
        model_name = CharField(index=True)
        shard_id = IntegerField()
        start_layer = IntegerField()
        end_layer = IntegerField()
        is_loaded = BooleanField()
        path = TextField(null=True)
        created_at = DateTimeField()
        updated_at = DateTimeField()

        class Meta:
            database = db
            table_name = "model_shard"

    class InferenceRequest(Model):
        id = identifier()
        model_name = CharField()
        deployment_id = CharField(null=True)
        prompt = TextField()
        result = TextField()
        error = TextField(null=True)
        status = CharField()
        parameters = TextField()
        prompt_token_ids = TextField()
        token_ids = TextField()
        finish_reason = CharField(null=True)
        prompt_tokens = IntegerField()
        completion_tokens = IntegerField()
        timings = TextField()
        created_at = DateTimeField()
        started_at = DateTimeField(null=True)
        completed_at = DateTimeField(null=True)

        class Meta:
            database = db
            table_name = "inference_request"
            indexes = (
                (("created_at", "id"), False),
                (("status", "created_at", "id"), False),
                (("model_name", "created_at", "id"), False),
                (("deployment_id", "created_at", "id"), False),
            )

    class Event(Model):
        id = identifier()
        at = DateTimeField()
        level = CharField()
        source = CharField()
        node_id = IntegerField(null=True)
        deployment_id = CharField(null=True)
        request_id = IntegerField(null=True)
        message = TextField()
        details = TextField()

        class Meta:
            database = db
            table_name = "event"
            indexes = (
                (("at", "id"), False),
                (("level", "at", "id"), False),
                (("node_id", "at", "id"), False),
                (("deployment_id", "at", "id"), False),
                (("request_id", "at", "id"), False),
            )

    db.create_tables([WorkerNode, LibraryModel, Deployment, ModelShard, InferenceRequest, Event])
