"""The tables as Peewee models. They are bound to no database: each query is executed on the connection it is meant for.

The migrations make the tables, from frozen copies of their own; a test compares the two.
"""

from __future__ import annotations

from peewee import AutoField, BigIntegerField, BlobField, BooleanField, DoubleField, ForeignKeyField, IntegerField
from peewee import Model as PeeweeModel

from app.registry.fields import Instant, Json, Prose, TokenIds, Words


class WorkerNode(PeeweeModel):
    id = AutoField()
    hostname = Words(index=True)
    ip_address = Words()
    port = IntegerField()
    public_key = Words(index=True)
    agent_id = Words()
    is_active = BooleanField()
    draining = BooleanField()
    last_heartbeat = Instant(null=True)
    capacities = Json()
    local_pid = IntegerField(null=True)
    created_at = Instant()
    updated_at = Instant()

    class Meta:
        table_name = "worker_node"
        indexes = ((("ip_address", "port"), True),)


class Model(PeeweeModel):
    id = AutoField()
    name = Words(unique=True)
    folder = Prose()
    source = Prose()
    architecture = Words()
    layers = IntegerField()
    parameters = BigIntegerField()
    weight_bytes = BigIntegerField()
    dtype = Words()
    context = IntegerField()
    created_at = Instant()
    updated_at = Instant()

    class Meta:
        table_name = "model"


class Deployment(PeeweeModel):
    id = Words(primary_key=True)
    model_name = Words(index=True)
    plan_hash = Words()
    dtype = Words()
    context = IntegerField()
    kv_tokens = BigIntegerField()
    quantize = Words(default="none")
    kv_dtype = Words(default="computed")
    wait_seconds = IntegerField(default=30)
    recovery = Words(default="fast")
    replica_of = Words(default="")
    aim = Words(default="")
    epoch = BigIntegerField()
    status = Words(index=True)
    error = Prose(null=True)
    created_at = Instant()
    updated_at = Instant()

    class Meta:
        table_name = "deployment"


class ModelShard(PeeweeModel):
    id = AutoField()
    node = ForeignKeyField(WorkerNode, null=True, on_delete="CASCADE")
    deployment = ForeignKeyField(Deployment, null=True, on_delete="CASCADE")
    model_name = Words(index=True)
    shard_id = IntegerField()
    start_layer = IntegerField()
    end_layer = IntegerField()
    is_loaded = BooleanField()
    path = Prose(null=True)
    created_at = Instant()
    updated_at = Instant()

    class Meta:
        table_name = "model_shard"


class InferenceRequest(PeeweeModel):
    """Every index ends in (created_at, id), the order of listings, so that a page is found without reading prompts."""

    id = AutoField()
    model_name = Words()
    deployment_id = Words(null=True)
    prompt = Prose()
    result = Prose()
    error = Prose(null=True)
    status = Words()
    parameters = Json()
    prompt_token_ids = TokenIds()
    token_ids = TokenIds()
    finish_reason = Words(null=True)
    prompt_tokens = IntegerField()
    completion_tokens = IntegerField()
    timings = Json()
    created_at = Instant()
    started_at = Instant(null=True)
    completed_at = Instant(null=True)
    origin = Json(default={})
    sequence = Json(default={})

    class Meta:
        table_name = "inference_request"
        indexes = (
            # Answers "newest first" also for any mix of states and models without a look at the rows.
            (("created_at", "id", "status", "model_name"), False),
            (("status", "created_at", "id"), False),
            (("model_name", "created_at", "id"), False),
            (("deployment_id", "created_at", "id"), False),
        )


class Response(PeeweeModel):
    id = Words(primary_key=True)
    request = ForeignKeyField(InferenceRequest, on_delete="CASCADE")
    asked = Json()
    created_at = Instant()

    class Meta:
        table_name = "response"


class Event(PeeweeModel):
    """Its ids are no foreign keys: what happened to a node is still true when the node is gone."""

    id = AutoField()
    at = Instant()
    level = Words()
    source = Words()
    node_id = IntegerField(null=True)
    deployment_id = Words(null=True)
    request_id = IntegerField(null=True)
    message = Prose()
    details = Json()

    class Meta:
        table_name = "event"
        indexes = (
            # Answers "newest first" also for any mix of levels, sources and nodes without a look at the rows.
            (("at", "id", "level", "source", "node_id"), False),
            (("level", "at", "id"), False),
            (("source", "at", "id"), False),
            (("node_id", "at", "id"), False),
            (("deployment_id", "at", "id"), False),
            (("request_id", "at", "id"), False),
        )


class Job(PeeweeModel):
    id = AutoField()
    kind = Words()
    title = Prose()
    model_name = Words(null=True)
    status = Words()
    error = Prose(null=True)
    details = Json()
    origin = Json(default={})
    created_at = Instant()
    started_at = Instant(null=True)
    completed_at = Instant(null=True)

    class Meta:
        table_name = "job"
        indexes = (
            (("created_at", "id", "status", "kind"), False),
            (("status", "created_at", "id"), False),
        )


class Trace(PeeweeModel):
    """What `app.runs.trace.pack` made of a run. Not in the subject's own row, so that listings stay small."""

    id = AutoField()
    kind = Words()
    subject = Words()
    size = BigIntegerField()
    data = BlobField()
    created_at = Instant()

    class Meta:
        table_name = "trace"
        indexes = (
            (("kind", "subject"), True),
            # Sums up sizes and finds the oldest without a look at the data.
            (("created_at", "id", "size"), False),
        )


class NodeLink(PeeweeModel):
    id = AutoField()
    source = ForeignKeyField(WorkerNode, on_delete="CASCADE")
    target = ForeignKeyField(WorkerNode, on_delete="CASCADE")
    outcome = Words()
    detail = Prose()
    rtt = DoubleField(null=True)
    least_rtt = DoubleField(null=True)
    jitter = DoubleField(null=True)
    clock_offset = DoubleField(null=True)
    bytes_per_second = DoubleField(null=True)
    segment_bytes = IntegerField(null=True)
    created_at = Instant()

    class Meta:
        table_name = "node_link"


class StageComparison(PeeweeModel):
    id = AutoField()
    node = ForeignKeyField(WorkerNode, on_delete="CASCADE")
    following = ForeignKeyField(WorkerNode, null=True, on_delete="CASCADE")
    model_name = Words()
    dtype = Words()
    quantize = Words()
    token_predicted = DoubleField()
    token_measured = DoubleField()
    prompt_predicted = DoubleField()
    prompt_measured = DoubleField()
    way_predicted = DoubleField()
    way_measured = DoubleField()
    read_bytes_per_second = DoubleField()
    flops_per_second = DoubleField()
    rtt = DoubleField(null=True)
    created_at = Instant()

    class Meta:
        table_name = "stage_comparison"


class Measurement(PeeweeModel):
    id = AutoField()
    model = ForeignKeyField(Model, on_delete="CASCADE")
    serving = Json()
    nodes = Json()
    text = Words()
    tokens = IntegerField()
    perplexity = DoubleField()
    reference = Prose(null=True)
    reference_perplexity = DoubleField(null=True)
    greedy_tokens = IntegerField(null=True)
    same_tokens = IntegerField(null=True)
    remark = Prose()
    created_at = Instant()

    class Meta:
        table_name = "measurement"


class ApiKey(PeeweeModel):
    id = AutoField()
    name = Words(unique=True)
    digest = Words(unique=True)
    hint = Words()
    created_at = Instant()
    last_used_at = Instant(null=True)

    class Meta:
        table_name = "api_key"


TABLES = (
    WorkerNode, NodeLink, Model, Deployment, ModelShard, InferenceRequest, Response, Event, Job, Trace, Measurement,
    StageComparison, ApiKey,
)  # fmt: skip
