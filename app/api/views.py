"""What the endpoints answer with, and how it is made from the controller's records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from app.api.job_views import JobView
from app.api.machine_views import DiskView, GpuView, SpeedView
from app.cluster.node_state import NodeState, node_state
from app.controller import Controller
from app.figures import layers
from app.inference.request_run import RequestRun
from app.registry import (
    DeploymentRecord,
    EventRecord,
    NodeRecord,
    RequestLine,
    RequestRecord,
    ShardRecord,
)
from app.runs.trace import Foreseen
from app.runs.ways import Way, is_lost, words_of
from app.serving import Serving
from app.sharding.placement import Placement
from worker_agent.wire.messages import StageInfo


class NodeView(BaseModel):
    """A node, and what its agent said last. Memory in bytes; figures are null while nothing is heard of it."""

    id: int
    name: str
    address: str
    state: NodeState = Field(description="; ".join(f"{state}: {state.meaning}" for state in NodeState))
    problem: str = Field(description="why it does not answer or get on; empty when it does")
    ghost: str = Field(default="", description="why it will hardly come back, and what to do; empty while it may")
    draining: bool
    last_heartbeat: datetime | None
    system: str
    cpu: str
    device: str
    software: str
    speeds: list[SpeedView] = Field(default_factory=list, description="as measured; empty until that was done")
    disk: DiskView | None = Field(default=None, description="as measured; null while its store holds too little")
    gpus: list[GpuView] = Field(default_factory=list)
    memory_total: int | None = None
    memory_available: int | None = None
    memory_budget: int | None = Field(default=None, description="what stages may take")
    memory_used: int | None = Field(default=None, description="what stages take of it, with all KV that may come")
    memory_agent: int | None = Field(default=None, description="what the agent itself takes, besides all stages")
    memory_believed: int | None = Field(
        default=None, description="what its process should hold: the agent itself, weights, and the KV of this moment"
    )
    memory_held: int | None = Field(default=None, description="what its process really holds")
    memory_problem: str = Field(default="", description="why the last two differ; empty while they do not")
    cpu_percent: float | None = None
    round_trip_ms: float | None = None
    stages: list[str] = Field(default_factory=list, description="what it holds, in words")

    @classmethod
    def of(cls, controller: Controller, record: NodeRecord) -> NodeView:
        """On the loop."""
        health, heard = controller.nodes.health, controller.nodes.heard(record.id)
        told = record.capacities
        numerics = told.get("numerics")
        view = cls(
            id=record.id,
            name=record.hostname,
            address=record.address.removeprefix("tcp://"),
            state=node_state(record, heard),
            problem=heard.reason,
            draining=record.draining,
            last_heartbeat=record.last_heartbeat,
            system=str(told.get("system", "")),
            cpu=f"{told.get('cpu_name', '')} ({told.get('cpu_count', '?')} cores)" if told.get("cpu_name") else "",
            device=str(numerics.get("device", "")) if isinstance(numerics, dict) else "",
            software=str(told.get("software", "")),
            speeds=SpeedView.all_of(told),
            disk=DiskView.of(told),
            gpus=GpuView.all_of(told),
        )
        latest = health.latest(record.id)
        if not heard.alive or latest is None:  # it was connected a moment ago, and its first beat is under way
            return view
        report = latest.report
        view.memory_total, view.memory_available = report.memory_total, report.memory_available
        view.memory_budget, view.memory_used = report.memory_budget, report.memory_used
        view.memory_agent, view.memory_believed = report.memory_base, report.memory_held
        view.memory_held, view.memory_problem = report.process_memory, health.memory_problem(record.id)
        view.cpu_percent, view.round_trip_ms = round(report.cpu_percent, 1), round(latest.rtt * 1000, 2)
        view.stages = [f"{layers(one.start, one.end)} of {one.model}" for one in report.stages]
        return view


class NodeList(BaseModel):
    nodes: list[NodeView]


class WayView(BaseModel):
    """A way to compute faster with the same result: in how many places a stage takes it, out of how many."""

    name: str = Field(description="batched, lockstep, pieces, reused, blocks, packed, joined, norms or recorded")
    title: str
    used: int
    possible: int
    lost: bool = Field(description="it was possible, and is not taken everywhere")
    why: str = Field(description="why not everywhere, where that is so")

    @classmethod
    def of(cls, way: Way) -> WayView:
        return cls(
            name=way.name, title=words_of(way.name).title, used=way.used, possible=way.possible, lost=is_lost(way),
            why=way.why,
        )  # fmt: skip


class StageView(BaseModel):
    """Layers [start, end) on a node."""

    stage: int
    node_id: int | None
    node: str
    start: int
    end: int


class LoadedStageView(StageView):
    """As its agent told it in its last beat: bytes, and how it runs. Null and empty while nothing is heard of it."""

    weight_bytes: int | None = None
    kv_bytes: int | None = Field(default=None, description="set aside for keys and values")
    ways: list[WayView] = Field(default_factory=list)


class PlannedStageView(StageView):
    """With the memory that they would take there, in bytes."""

    weight_bytes: int
    kv_bytes: int


class DeploymentView(BaseModel):
    """A model that is loaded, was, or is being loaded."""

    id: str
    model: str
    status: str
    error: str | None
    dtype: str
    context: int
    kv_tokens: int
    quantize: str
    kv_dtype: str
    wait_seconds: int
    recovery: str
    replica_of: str = Field(default="", description="the group of deployments that it shares requests with; else empty")
    aim: str = Field(
        default="",
        description="what it was planned for, and is when it is placed anew; empty where the layers were given",
    )
    plan_hash: str
    epoch: int
    created_at: datetime
    mending: str = Field(default="", description="what is being done for it after a stage was lost; else empty")
    stages: list[LoadedStageView]

    @property
    def numbers(self) -> str:
        """In what numbers it is computed, in words, for pages."""
        return Serving.kept(self).numbers

    @classmethod
    def of(
        cls,
        record: DeploymentRecord,
        shards: Iterable[ShardRecord],
        names: dict[int, str],
        held: Callable[[int, str, int], StageInfo | None],
        mending: Callable[[str], str],
    ) -> DeploymentView:
        """`held` tells of a node, a deployment and a stage what the node's agent said of it last; `mending` what is
        being done to mend a deployment. On the loop."""
        mine = sorted((one for one in shards if one.deployment_id == record.id), key=lambda one: one.shard_id)

        def view(one: ShardRecord) -> LoadedStageView:
            told = None if one.node_id is None else held(one.node_id, record.id, one.shard_id)
            return LoadedStageView(
                stage=one.shard_id, node_id=one.node_id, node=names.get(one.node_id or 0, "a node that is gone"),
                start=one.start_layer, end=one.end_layer,
                weight_bytes=None if told is None else told.weight_bytes,
                kv_bytes=None if told is None else told.kv_bytes,
                ways=[] if told is None else [WayView.of(way) for way in told.ways],
            )  # fmt: skip

        return cls(
            id=record.id, model=record.model_name, status=record.status, error=record.error, **asdict(record.serving),
            plan_hash=record.plan_hash, epoch=record.epoch, created_at=record.created_at, mending=mending(record.id),
            replica_of=record.replica_of, aim=record.aim,
            stages=[view(one) for one in mine],
        )  # fmt: skip


class DeploymentList(BaseModel):
    deployments: list[DeploymentView]


class PlannedProcessView(BaseModel):
    """What the process of a node's agent would hold of main memory once its caches are full, in bytes."""

    node_id: int
    node: str
    agent_bytes: int = Field(description="the agent itself")
    loaded_bytes: int = Field(description="stages that are there already")
    weight_bytes: int
    kv_bytes: int
    working_bytes: int = Field(description="recordings of the layers, activations, code read when it is needed")
    on_gpu: bool = Field(description="stages lie in a GPU's memory, and do not count")
    process_bytes: int = Field(description="in all")


class ForeseenView(BaseModel):
    """What one answer alone may expect."""

    tokens_per_second: float
    first_token_ms: float
    prompt_tokens: int = Field(description="of which prompt")
    assumed: list[str] = Field(description="what was assumed instead of measured")
    correction: float = Field(description="by what a token's time was multiplied for what earlier runs took")
    corrected_runs: int = Field(description="from how many runs that was learned; 0 where nothing was corrected")

    @classmethod
    def of(cls, told: Foreseen) -> ForeseenView:
        return cls(
            tokens_per_second=told.tokens_per_second, first_token_ms=told.first_token_us / 1e3,
            prompt_tokens=told.prompt_tokens, assumed=list(told.assumed), correction=told.correction,
            corrected_runs=told.corrected_runs,
        )  # fmt: skip


class ReasonView(BaseModel):
    """Why a node takes what it takes, or nothing."""

    node_id: int
    node: str
    text: str = Field(description="the rest of a sentence that begins with the node's name")


class PlanView(BaseModel):
    """Where a model's layers would go."""

    model: str
    dtype: str
    context: int
    kv_tokens: int
    quantize: str
    kv_dtype: str
    wait_seconds: int
    recovery: str
    stages: list[PlannedStageView]
    processes: list[PlannedProcessView]
    left_out: list[str] = Field(description="nodes that would get nothing")
    aim: str = Field(description="what it was chosen for; empty where the layers were given")
    reasons: list[ReasonView] = Field(description="of each node that could be chosen, why it takes what it takes")
    remark: str = Field(description="that fewer machines are faster, where they are, with the figures")
    predicted: ForeseenView | None = Field(description="null where a node has not measured itself")

    @classmethod
    def of(cls, placement: Placement) -> PlanView:
        return cls(
            model=placement.model_name, **asdict(placement.serving),
            stages=[
                PlannedStageView(
                    stage=number, node_id=one.node.node_id, node=one.node.name, start=one.start, end=one.end,
                    weight_bytes=one.weight_bytes, kv_bytes=one.kv_bytes,
                )
                for number, one in enumerate(placement.stages)
            ],
            processes=[PlannedProcessView(**one.figures()) for one in placement.processes],
            left_out=[f"{node.name} ({node.node_id})" for node in placement.left_out],
            aim=placement.aim, remark=placement.remark,
            reasons=[ReasonView(node_id=one.node_id, node=one.name, text=one.text) for one in placement.reasons],
            predicted=None if placement.foreseen is None else ForeseenView.of(placement.foreseen),
        )  # fmt: skip


class RequestView(BaseModel):
    """A request: live while it runs, as it was written down afterwards. `timings` in seconds."""

    id: int
    model: str
    status: str
    prompt: str
    text: str = Field(description="the answer so far")
    token_ids: list[int]
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str | None
    error: str | None
    parameters: dict[str, Any]
    timings: dict[str, float]
    deployment_id: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @classmethod
    def of(cls, record: RequestRecord) -> RequestView:
        return cls(
            id=record.id, model=record.model_name, status=record.status, prompt=record.prompt, text=record.result,
            token_ids=list(record.token_ids), prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens, finish_reason=record.finish_reason, error=record.error,
            parameters=dict(record.parameters), timings=record.timings, deployment_id=record.deployment_id,
            created_at=record.created_at, started_at=record.started_at, completed_at=record.completed_at,
        )  # fmt: skip

    @classmethod
    def live(cls, run: RequestRun) -> RequestView:
        """On the loop."""
        view = cls.of(run.record)
        view.text, view.token_ids, view.completion_tokens = run.text, list(run.token_ids), len(run.token_ids)
        view.prompt_tokens = view.prompt_tokens or len(run.prompt_token_ids)
        return view


class RequestLineView(BaseModel):
    """A request in a list: the beginning of its prompt, and no answer."""

    id: int
    model: str
    status: str
    prompt: str
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    timings: dict[str, float]
    created_at: datetime
    completed_at: datetime | None

    @classmethod
    def of(cls, line: RequestLine) -> RequestLineView:
        return cls(
            id=line.id, model=line.model_name, status=line.status, prompt=line.prompt, error=line.error,
            prompt_tokens=line.prompt_tokens, completion_tokens=line.completion_tokens, timings=line.timings,
            created_at=line.created_at, completed_at=line.completed_at,
        )  # fmt: skip


class RequestList(BaseModel):
    requests: list[RequestLineView]


class EventView(BaseModel):
    """Something that happened."""

    id: int
    at: datetime
    level: str
    source: str
    message: str
    node_id: int | None
    deployment_id: str | None
    request_id: int | None

    @classmethod
    def of(cls, record: EventRecord) -> EventView:
        return cls(
            id=record.id, at=record.at, level=record.level, source=record.source, message=record.message,
            node_id=record.node_id, deployment_id=record.deployment_id, request_id=record.request_id,
        )  # fmt: skip


class EventList(BaseModel):
    events: list[EventView]


class SystemView(BaseModel):
    """What the start page shows."""

    version: str
    nodes: list[NodeView]
    deployments: list[DeploymentView]
    jobs: list[JobView] = Field(description="background work under way")
    requests: list[RequestLineView] = Field(description="the newest requests")
    requests_under_way: int


class ErrorBody(BaseModel):
    message: str
    advice: str = ""
    type: str
    code: str


class ErrorAnswer(BaseModel):
    """Every error looks like this."""

    error: ErrorBody


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: which errors it may answer with."""
    return {status: {"model": ErrorAnswer, "description": _SAID[status]} for status in statuses}


_SAID = {
    400: "What was given cannot be used.",
    401: "An API key is demanded, or the one given is not valid.",
    403: "A page of another site, or an old one of this, asked for this.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "What is there stands against it.",
    413: "The body is too big.",
    415: "The body is neither JSON nor a form.",
    421: "The server does not go by this name.",
    422: "Something is missing or of the wrong kind.",
    503: "Not now.",
    507: "There is not enough memory or disk space.",
}
ALWAYS: Sequence[int] = (401, 403, 408, 413, 421, 503)
"""What the door and the gate may answer anywhere."""
