"""What is recorded of one request, deployment or job besides its row in the registry.

A trace is written once, when its subject is over, and read when somebody opens or exports it. All times are whole
microseconds; those named `at_us` count from the moment the subject was asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Literal

import msgspec
from msgspec import Struct

from app.registry import DeploymentRecord
from app.serving import DEFAULT_WAIT_SECONDS, Serving

VERSION = 1
"""Of this format. A newer one may add fields; what reads an older one fills in the defaults."""


class Origin(Struct, frozen=True, kw_only=True):
    """Who asked: by what way in, as whom, from where."""

    via: Literal["window", "command", "http", "program"] = "program"
    user: str = ""
    """The user of the operating system, or the name of the API key."""
    client: str = ""
    """What the client calls itself and where it is, for HTTP."""


UNKNOWN = Origin()
"""Somebody who drives the controller from a program of their own."""


def origin_of(stored: Mapping[str, str]) -> Origin:
    """As the registry keeps it of a request or a job; unknown where that is older than this was written down."""
    return msgspec.convert(stored, Origin) if stored else UNKNOWN


class Versions(Struct, frozen=True, kw_only=True):
    """The software of the controller."""

    shardboard: str
    python: str
    system: str
    wire: int
    packages: dict[str, str] = {}
    """Name to version, of what can change a result: tokenizers, jinja2, llguidance, …"""


class NodeFacts(Struct, frozen=True, kw_only=True):
    """One node as it was then."""

    node_id: int
    name: str
    address: str
    system: str = ""
    cpu: str = ""
    device: str = ""
    threads: int = 0
    software: str = ""
    torch: str = ""
    transformers: str = ""
    memory_total: int = 0
    memory_budget: int = 0


class StageWay(Struct, frozen=True, kw_only=True):
    """One way to compute faster with the same result: in how many places it is taken, out of how many, why not all.

    Named as on the wire: batched, lockstep, pieces, reused, blocks, packed, joined, norms, recorded, captured, kv_int8.
    """

    name: str
    used: int
    possible: int
    why: str = ""


class StagePlan(Struct, frozen=True, kw_only=True):
    """Stage k of the plan: layers [start, end) on a node. Bytes of weights and of its KV cache."""

    stage: int
    node_id: int
    node: str
    start: int
    end: int
    weight_bytes: int = 0
    kv_bytes: int = 0
    ways: tuple[StageWay, ...] = ()
    """Empty where nothing was told of them."""


class Plan(Struct, frozen=True, kw_only=True):
    """Where the layers were."""

    deployment: str
    plan_hash: str
    model: str
    dtype: str
    context: int
    kv_tokens: int
    quantize: str = "none"
    kv_dtype: str = "computed"
    wait_seconds: int = DEFAULT_WAIT_SECONDS
    recovery: str = "fast"
    epoch: int
    stages: tuple[StagePlan, ...] = ()

    @classmethod
    def of(cls, record: DeploymentRecord, stages: Iterable[StagePlan], epoch: int | None = None) -> Plan:
        """Of a deployment; without an epoch that of its record."""
        return cls(
            deployment=record.id,
            plan_hash=record.plan_hash,
            model=record.model_name,
            **asdict(record.serving),
            epoch=record.epoch if epoch is None else epoch,
            stages=tuple(stages),
        )

    @property
    def serving(self) -> Serving:
        return Serving.kept(self)


class StageForeseen(Struct, frozen=True, kw_only=True):
    """What the formulas said of one stage, before anything was corrected. Seconds, and the figures they went by."""

    node_id: int
    following_id: int | None = None
    """The node of the next stage; None for a stage alone."""
    token: float
    """Of computing a step of one token."""
    prompt: float
    """Of computing the whole prompt."""
    way: float = 0.0
    """Of a token to the next stage."""
    read_bytes_per_second: float
    flops_per_second: float
    rtt: float | None = None
    """Of the way to the next stage and back, where that was measured."""


class Foreseen(Struct, frozen=True, kw_only=True):
    """What was predicted of one answer alone, before it came."""

    tokens_per_second: float
    first_token_us: int
    """From the hand-over to the agents to the first token."""
    prompt_tokens: int
    """For which prompt."""
    network_share: float = 0.0
    """Of a token's time, what goes into the way between the agents."""
    assumed: tuple[str, ...] = ()
    """Which figures were assumed, since they had not been measured; a sentence each."""
    correction: float = 1.0
    """By what the time of a token was multiplied for what earlier runs took: 1.12 is 12 % slower than the formulas."""
    corrected_runs: int = 0
    """From how many runs that was learned; 0 where nothing was corrected."""
    dtype: str = ""
    quantize: str = "none"
    stages: tuple[StageForeseen, ...] = ()


class ModelFacts(Struct, frozen=True, kw_only=True):
    """The model that was asked."""

    name: str
    architecture: str
    source: str
    layers: int
    parameters: int
    dtype: str
    content: str = ""
    """A hash over the digests of all its parts: equal for equal weights."""


class StageShare(Struct, frozen=True, array_like=True):
    """What one stage did with a step: how long it waited there for its turn, how long it was computed."""

    queue_us: int
    compute_us: int


class TokenTime(Struct, frozen=True, array_like=True):
    """One token of the answer on its way round the ring."""

    at_us: int
    """When the controller had it."""
    took_us: int
    """Since the token before it; the shares below are parts of this. The first token's step reads the last part of
    the prompt as well, so it counts from the chunk before it, or from when the agents got the request."""
    batch: int
    """How many tokens of how many requests the same step brought."""
    stages: tuple[StageShare, ...] = ()

    @property
    def compute_us(self) -> int:
        return sum(stage.compute_us for stage in self.stages)

    @property
    def queue_us(self) -> int:
        return sum(stage.queue_us for stage in self.stages)

    @property
    def wire_us(self) -> int:
        """All that is neither computing nor waiting for it: network, serialising, handing over."""
        return max(0, self.took_us - self.compute_us - self.queue_us)


class ChunkTime(Struct, frozen=True, array_like=True):
    """A part of the prompt, all but the last, that went into the caches of all stages. `done` counts the prompt's
    tokens that are in them by now; the step that reads the last part is the first token's."""

    at_us: int
    took_us: int
    done: int
    stages: tuple[StageShare, ...] = ()


class LayersWent(Struct, frozen=True, kw_only=True):
    """Layers [start, end) that an interruption concerned: on which node they were, and which has them now."""

    start: int
    end: int
    node: str
    went: str
    """Several names with commas, where the layers were cut anew."""


class Interruption(Struct, frozen=True, kw_only=True):
    """A stage was lost, or handed over to another node, while a request ran, and the request went on."""

    at_us: int
    lasted_us: int
    """Until the agents had the sequence again. What they then had to compute anew is part of the next token's time."""
    tokens: int
    """How many tokens of the answer had come."""
    node: str = ""
    """Whose stage was lost."""
    reason: str = ""
    what: str = ""
    """What was done, in a sentence without its full stop: layers 22-31 went to laptop."""
    planned: bool = False
    """Whether nothing was lost: the stage was handed over."""
    layers: tuple[LayersWent, ...] = ()
    """Those of the node that was lost, and those that went elsewhere."""
    exact: bool = True
    """Whether the tokens are those that would have come anyway; in half precision their low bits belong to the steps
    in which they are computed."""


class NodeMemory(Struct, frozen=True, kw_only=True):
    """What a node said of its memory when the subject was over. Bytes."""

    node_id: int
    process: int
    """What the agent's process really held."""
    used: int
    budget: int
    available: int
    believed: int = 0
    """What the agent believed to hold: itself, weights, the keys and values of that moment. 0 if it was not told."""
    agent: int = 0
    """Of that, the agent itself."""


class Phase(Struct, frozen=True, kw_only=True):
    """A part of a deployment or a job: what, on which node, from when to when, how many bytes."""

    name: str
    node_id: int | None = None
    node: str = ""
    began_us: int
    ended_us: int
    total_bytes: int = 0
    already_bytes: int = 0


class RequestTrace(Struct, frozen=True, kw_only=True, tag="request", tag_field="kind"):
    """Of one request. `tokens` has one entry for each token of the answer, in order.

    `first_step_us` is when the sequence was handed to the agents; what was before went into tokenizing and, perhaps,
    loading.
    """

    version: int = VERSION
    origin: Origin = Origin()
    versions: Versions | None = None
    model: ModelFacts | None = None
    plan: Plan | None = None
    nodes: tuple[NodeFacts, ...] = ()
    first_step_us: int = 0
    chunks: tuple[ChunkTime, ...] = ()
    tokens: tuple[TokenTime, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    memory: tuple[NodeMemory, ...] = ()
    prompt_kept: bool = True
    """False when the settings say that the text of prompts and answers is not kept."""
    notes: tuple[str, ...] = ()
    """What the model's own generation_config.json asked for in vain, a sentence each."""
    cached_tokens: int = 0
    """Of the prompt: so many were in the stages' memory already, from an earlier prompt that began in the same way."""
    interruptions: tuple[Interruption, ...] = ()
    foreseen: Foreseen | None = None
    """What was predicted for this prompt."""


class DeploymentTrace(Struct, frozen=True, kw_only=True, tag="deployment", tag_field="kind"):
    """Of one deployment, from the plan until it could answer or failed."""

    version: int = VERSION
    origin: Origin = Origin()
    versions: Versions | None = None
    model: ModelFacts | None = None
    plan: Plan | None = None
    nodes: tuple[NodeFacts, ...] = ()
    phases: tuple[Phase, ...] = ()
    took_us: int = 0
    memory: tuple[NodeMemory, ...] = ()
    error: str | None = None
    foreseen: Foreseen | None = None
    """What was predicted of it; None where a node had not measured itself."""


class JobTrace(Struct, frozen=True, kw_only=True, tag="job", tag_field="kind"):
    """Of one job: adding a model, cutting one."""

    version: int = VERSION
    origin: Origin = Origin()
    versions: Versions | None = None
    phases: tuple[Phase, ...] = ()
    took_us: int = 0
    error: str | None = None


class TokenLogprob(Struct, frozen=True, array_like=True):
    """A token and its natural log probability, and the likeliest tokens in its place with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


Trace = RequestTrace | DeploymentTrace | JobTrace

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Trace] = msgspec.msgpack.Decoder(Trace)


def pack(trace: Trace) -> bytes:
    """A trace as the registry keeps it."""
    return zlib.compress(_encoder.encode(trace), 6)


def unpack(data: bytes) -> Trace:
    """What `pack` made. Raises ValueError when it is something else."""
    try:
        return _decoder.decode(zlib.decompress(data))
    except (zlib.error, msgspec.DecodeError) as error:
        raise ValueError(f"This is no trace of a run: {error}.") from error
