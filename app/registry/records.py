"""What the registry hands out: frozen records, safe to pass between threads. All times are timezone-aware UTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from app.controller_settings import is_loopback
from app.serving import Serving


class DeploymentStatus(StrEnum):
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADED = "unloaded"


class RequestStatus(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing can follow: a request that is over never changes its status again."""
        return self not in (RequestStatus.PENDING, RequestStatus.PROCESSING)


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing can follow: a job that is over never changes its status again."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class EventLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def and_worse(self) -> tuple[EventLevel, ...]:
        """This level and those above it."""
        levels = list(EventLevel)
        return tuple(levels[levels.index(self) :])


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A machine with an agent on it. `local_pid` is set for an agent that Shardboard launched on this machine."""

    id: int
    hostname: str
    ip_address: str
    port: int
    public_key: str
    agent_id: str
    is_active: bool
    draining: bool
    last_heartbeat: datetime | None
    capacities: dict[str, object]
    local_pid: int | None
    created_at: datetime
    updated_at: datetime

    @property
    def address(self) -> str:
        """The agent's ZeroMQ endpoint; an IPv6 address stands in brackets there."""
        host = f"[{self.ip_address}]" if ":" in self.ip_address else self.ip_address
        return f"tcp://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether its address can be reached from its own machine alone."""
        return is_loopback(self.ip_address)

    @property
    def machine(self) -> str:
        """A name that nodes on one machine have in common: they share its cores, and cross no network."""
        return "this machine" if self.local_pid is not None or self.is_loopback else self.ip_address


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model in the library. `source` is where it came from (a folder, a Hub id, a GGUF file), `context` in tokens."""

    id: int
    name: str
    folder: str
    source: str
    architecture: str
    layers: int
    parameters: int
    weight_bytes: int
    dtype: str
    context: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A placement that is, was or is being loaded. `epoch` counts pipelines."""

    id: str
    model_name: str
    plan_hash: str
    dtype: str
    context: int
    kv_tokens: int
    quantize: str
    kv_dtype: str
    wait_seconds: int
    recovery: str
    replica_of: str
    """The group that it belongs to, if it did not begin it."""
    aim: str
    """What it was planned for, and is when it has to be placed anew; empty where somebody said where the layers go."""
    epoch: int
    status: DeploymentStatus
    error: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def serving(self) -> Serving:
        return Serving.kept(self)

    @property
    def group(self) -> str:
        """What deployments have in common that are each other's replicas: the id of the first of them."""
        return self.replica_of or self.id


def leading(newest_first: Sequence[DeploymentRecord]) -> DeploymentRecord:
    """Of a model's deployments the one that requests come to, and that its replicas are replicas of."""
    newest = newest_first[0]
    return next((record for record in newest_first if record.id == newest.group), newest)


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """Layers [start_layer, end_layer) of a model. Without a node: a shard folder (`path`) that is not placed yet."""

    id: int
    node_id: int | None
    deployment_id: str | None
    model_name: str
    shard_id: int
    start_layer: int
    end_layer: int
    is_loaded: bool
    path: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One prompt, its sampling parameters and what came of it. `timings` in seconds, by name."""

    id: int
    model_name: str
    deployment_id: str | None
    prompt: str
    result: str
    error: str | None
    status: RequestStatus
    parameters: dict[str, object]
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    timings: dict[str, float]
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    origin: dict[str, str] = field(default_factory=dict)
    """Who asked: the fields of `app.runs.trace.Origin`."""
    sequence: dict[str, object] = field(default_factory=dict)
    """While it is under way, how the next controller finds it again: `number` and `epoch`, by which its agents know it,
    and whether it is a `chat`. Empty for what cannot be gone on with."""


@dataclass(frozen=True, slots=True)
class ResponseRecord:
    """What was asked over the Responses API. What came of it has the request."""

    id: str
    request_id: int
    asked: dict[str, object]
    """The request's body, its input with all that was said before."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A request as a long list shows it: the beginning of its prompt, and neither answer nor tokens.

    A page of a hundred of them stays small however long the prompts are.
    """

    id: int
    model_name: str
    deployment_id: str | None
    prompt: str
    """Its first characters."""
    status: RequestStatus
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    timings: dict[str, float]
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Long work that somebody asked for: cutting a model (`kind` is cut), adding one (add), taking the demo's (demo),
    deploying one (deploy), measuring what its numbers cost (measure), measuring the links between nodes (links),
    bringing agents (local, ssh, ray), updating one (update), inviting one (invite).

    `details` is what came of it: ranges of layers, the output folder, bytes, the deployment.
    """

    id: int
    kind: str
    title: str
    model_name: str | None
    status: JobStatus
    error: str | None
    details: dict[str, object]
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    origin: dict[str, str] = field(default_factory=dict)
    """Who asked for it, as `Origin` has it; empty of one that is older than that."""


@dataclass(frozen=True, slots=True)
class MeasurementRecord:
    """How well a model as it was loaded predicts a text, and how often it says what it would say in floats."""

    id: int
    model_id: int
    serving: Serving
    """In what numbers it was computed."""
    nodes: tuple[str, ...]
    """The names of those it ran on, in the order of the stages."""
    text: str
    """The name of the text."""
    tokens: int
    """How many of the text's tokens were predicted."""
    perplexity: float
    reference: str | None
    """In what it was computed to compare with: float32; or another model, and in what. None without."""
    reference_perplexity: float | None
    greedy_tokens: int | None
    """How many tokens the reference chose; None without."""
    same_tokens: int | None
    """How many of them would have been chosen in the same places."""
    remark: str
    """Why there is no reference, or what else there is to say; a sentence or nothing."""
    created_at: datetime

    @property
    def same_share(self) -> float | None:
        """0 to 1; None without a reference."""
        return None if not self.greedy_tokens or self.same_tokens is None else self.same_tokens / self.greedy_tokens

    @property
    def cost(self) -> float | None:
        """By what part the perplexity is above the reference's: 0.01 is one percent. None without one."""
        return None if self.reference_perplexity is None else self.perplexity / self.reference_perplexity - 1


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """What one measuring of the link from one node's agent to another's has found. Seconds, bytes."""

    id: int
    source_id: int
    """The node that measured, and from which steps would go to `target_id`."""
    target_id: int
    outcome: str
    """`measured`, or how far it came: see `worker_agent.wire.messages.ProbeOutcome`."""
    detail: str
    """What the system or the other agent said to that; may be empty."""
    rtt: float | None
    """The median round trip of a short message. None, as all figures, where there is nothing to tell."""
    least_rtt: float | None
    jitter: float | None
    """How far one round trip is from the one before it, on average."""
    clock_offset: float | None
    """By how much the target's clock is ahead."""
    bytes_per_second: float | None
    segment_bytes: int | None
    """Of a TCP segment on the way."""
    created_at: datetime

    @property
    def is_measured(self) -> bool:
        return self.outcome == "measured"


@dataclass(frozen=True, slots=True)
class NewComparison:
    """What the formulas said of one stage of a request that was alone, beside what was measured of it. Seconds."""

    node_id: int
    following_id: int | None
    """The node of the next stage; None for a stage alone."""
    model_name: str
    dtype: str
    quantize: str
    token_predicted: float
    """Of computing a step of one token."""
    token_measured: float
    prompt_predicted: float
    """Of computing the whole prompt."""
    prompt_measured: float
    way_predicted: float
    """Of a token to the next stage; 0 for a stage alone. Only all ways together can be measured: each has its part."""
    way_measured: float
    read_bytes_per_second: float
    """The figures of the node by which was predicted, and of the way, where it had been measured."""
    flops_per_second: float
    rtt: float | None


@dataclass(frozen=True, slots=True)
class ComparisonRecord(NewComparison):
    """The same as it is kept."""

    id: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """A key of the HTTP API: the SHA-256 of it in hexadecimal, and its last characters as a hint for people."""

    name: str
    digest: str
    hint: str
    created_at: datetime
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened. The ids may name what is gone since: events outlive nodes, deployments and requests."""

    id: int
    at: datetime
    level: EventLevel
    source: str
    node_id: int | None
    deployment_id: str | None
    request_id: int | None
    message: str
    details: dict[str, object]
