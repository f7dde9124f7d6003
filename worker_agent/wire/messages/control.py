"""Control messages between a controller and an agent: who is there, weights, stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from worker_agent.wire.messages.fields import (
    MAX_FRAME_BYTES,
    MAX_LOG_BYTES,
    U32,
    U63,
    Address,
    Call,
    ComputeDType,
    Constraint,
    Digest,
    Id,
    Layer,
    Name,
    Seconds,
    Text,
    TokenId,
    Z85Key,
)
from worker_agent.wire.messages.parts import Quantize
from worker_agent.wire.messages.recovery import ResumedStates


class Hello(Call, tag="hello", kw_only=True, frozen=True):
    """First message of every connection, from the controller."""

    oldest: Annotated[int, Meta(ge=1, le=65535)]
    newest: Annotated[int, Meta(ge=1, le=65535)]
    boot: Id
    """The sender's boot id: another one means another process, with no memory of this one."""
    name: Name


Watts = Annotated[float, Meta(ge=0, le=1e6)]


class Gpu(Struct, forbid_unknown_fields=True, frozen=True):
    name: Name
    memory_total: U63
    memory_free: U63
    load: Annotated[float, Meta(ge=0, le=100)] | None = None
    power: Watts | None = None
    """What it draws."""
    power_limit: Watts | None = None
    """What it may draw."""


class Numerics(Struct, forbid_unknown_fields=True, frozen=True):
    """What the agent computes with; two agents that differ here may differ in low bits."""

    device: Name
    torch: Name
    transformers: Name
    threads: U32
    dtypes: Annotated[tuple[Name, ...], Meta(max_length=8)]
    capability: Name = ""
    """The CPU's instruction set as torch names it, or the GPU's compute capability."""


class Speed(Struct, forbid_unknown_fields=True, frozen=True):
    """What the agent was measured to do in one compute dtype, with the threads of a step alone in flight."""

    dtype: ComputeDType
    read_bytes_per_second: Annotated[float, Meta(gt=0, le=1e18)]
    """Of weights, in a step of one token."""
    flops_per_second: Annotated[float, Meta(gt=0, le=1e21)]
    """In a step of 256 tokens."""


Speeds = Annotated[tuple[Speed, ...], Meta(max_length=8)]


class DiskSpeed(Struct, forbid_unknown_fields=True, frozen=True):
    """How fast the agent reads its shard store, bytes per second."""

    cached_bytes_per_second: Annotated[float, Meta(gt=0, le=1e18)]
    """Of files that the system still has in memory, since they were read or written lately."""
    bytes_per_second: Annotated[float, Meta(gt=0, le=1e18)] | None = None
    """Of the disk itself; None where all that was read was in memory."""


WayName = Literal[
    "batched", "lockstep", "pieces", "reused", "blocks", "packed", "joined", "norms", "recorded", "captured", "kv_int8"
]

KvDType = Literal["computed", "int8"]
"""In what keys and values are kept: as they are computed, or as int8 with a scale for each token and head."""
SCALE_BYTES = 4
"""Of a scale: float32."""


def kv_token_bytes(elements: int, vectors: int, besides: int, itemsize: int, kv_dtype: KvDType) -> int:
    """Bytes of what one token puts into the cache. Both halves count with this, as with `loaded_bytes`.

    Args:
        elements: how many numbers that are.
        vectors: in how many vectors keys and values lie, one of each for each head.
        besides: how many of the numbers are neither; those stay as they are computed.
        itemsize: of an element of the compute dtype.
    """
    if kv_dtype == "int8":
        return elements - besides + vectors * SCALE_BYTES + besides * itemsize
    return elements * itemsize


def int8_known(elements: Sequence[int], vectors: Sequence[int], besides: Sequence[int]) -> bool:
    """Whether layers keep keys and values, and what those of each take in int8 is known; all by layers, as of
    `kv_token_bytes`. (Of a layer that could not be watched it is not known in how many vectors its numbers lie.)"""
    known = (some or total == other for total, some, other in zip(elements, vectors, besides, strict=True))
    return any(vectors) and all(known)


LEAST_BLOCK_TOKENS = 32
BlockTokens = Annotated[int, Meta(ge=LEAST_BLOCK_TOKENS, le=2**20)]

Reuse = Literal["no", "whole", "any"]
"""What a prompt may take over from an earlier one that began in the same way: nothing, all of it, or any beginning."""


class Way(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """One of the ways to compute faster than transformers' own pass with the same result, as a stage takes it.

    `batched`, `lockstep`, `pieces`, `reused` and `kv_int8` count layers, `blocks`, `packed`, `joined` and `norms`
    modules, `recorded` and `captured` whole stages. `blocks` and `kv_int8` save memory, and may cost accuracy.
    """

    name: WayName
    used: U32
    possible: U32
    why: Text = ""
    """Why not everywhere, where that is so; else what it costs, if it costs anything."""


Ways = Annotated[tuple[Way, ...], Meta(max_length=16)]


class StageInfo(Struct, forbid_unknown_fields=True, frozen=True):
    """A stage that an agent holds, as it reports it."""

    deployment: Id
    plan: Id
    epoch: U63
    stage: U32
    stages: U32
    start: Layer
    end: Layer
    model: Name
    weight_bytes: U63
    kv_bytes: U63
    """Bytes set aside for keys and values."""
    kv_tokens: U63
    kv_used_tokens: U63
    """Tokens of the sequences that run."""
    kv_held_bytes: U63
    """Bytes that keys and values take at this moment."""
    sequences: U32
    ways: Ways = ()
    reuse: Reuse = "no"
    quantize: Quantize = "none"
    weights_error: Annotated[float, Meta(ge=0)] = 0.0
    """As Loaded has it."""
    kv_dtype: KvDType = "computed"
    """As they are really kept: a stage that cannot keep int8 has `computed` whatever it was loaded with."""
    kv_error: Annotated[float, Meta(ge=0)] = 0.0
    """As Loaded has it."""
    kv_kept_tokens: U63 = 0
    """Tokens of prompts and answers that are over, kept for prompts that begin in the same way."""
    journal_bytes: U63 = 0
    """Bytes of main memory that its journal takes at this moment."""
    answers_alone: bool = False
    """As Loaded has it."""
    block_tokens: BlockTokens = LEAST_BLOCK_TOKENS
    """As Loaded has it."""


class Welcome(Call, tag="welcome", kw_only=True, frozen=True):
    """The answer to Hello: who the agent is, what it can do, what it holds."""

    version: Annotated[int, Meta(ge=1, le=65535)]
    boot: Id
    agent: Id
    """Stays the same over restarts: the first 16 hex digits of the hash of the agent's public key."""
    hostname: Name
    system: Name
    software: Name
    numerics: Numerics
    cpu_name: Name
    cpu_count: U32
    memory_total: U63
    memory_budget: U63
    """Bytes that stages may take in all, weights and KV."""
    memory_base: U63
    """Bytes that the agent took before it held any stage."""
    disk_free: U63
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=64)]
    stages: Annotated[tuple[StageInfo, ...], Meta(max_length=256)]
    max_frame: U63 = MAX_FRAME_BYTES
    speeds: Speeds = ()
    """As far as they are known yet: an agent is ready before it has measured them."""
    disk: DiskSpeed | None = None
    """The same, of a store that holds enough to be read."""


class Health(Call, tag="health", kw_only=True, frozen=True):
    """The application beat; the agent answers it from its I/O thread, also while a step computes."""


class Progress(Struct, forbid_unknown_fields=True, frozen=True):
    """The compute thread's own signal of life."""

    steps_done: U63
    busy_seconds: Seconds | None
    """How long the step under way has been running; None while idle."""
    busy_tokens: U32
    """How many tokens that step holds."""
    step_p99: Seconds
    """99th percentile of the last steps' durations."""


class HealthReport(Call, tag="health_report", kw_only=True, frozen=True):
    boot: Id
    cpu_percent: Annotated[float, Meta(ge=0, le=100)]
    process_cpu_percent: Annotated[float, Meta(ge=0, le=1e6)]
    load_1m: Annotated[float, Meta(ge=0, le=1e6)]
    memory_total: U63
    memory_available: U63
    process_memory: U63
    """Bytes of main memory that the agent's process really holds."""
    memory_base: U63
    """As in Welcome."""
    memory_held: U63
    """Bytes of main memory that the agent believes to hold: its base, weights, recordings of layers, and the keys and
    values of now."""
    memory_budget: U63
    memory_used: U63
    """Bytes of the budget that loaded stages take, with all keys and values that they may come to hold."""
    disk_free: U63
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=64)]
    progress: Progress
    stages: Annotated[tuple[StageInfo, ...], Meta(max_length=256)]
    draining: bool
    yields: Text = ""
    """Why the agent leaves its machine to its owner, as a sentence; empty while it does not."""
    loading: U32
    """Stages that are being loaded at this moment: the process holds what is not counted yet."""
    dropped: U63
    """Messages dropped since start because they were late, malformed or not allowed."""
    speeds: Speeds = ()
    """As in Welcome; here they arrive once they are measured."""


class ReadLog(Call, tag="read_log", kw_only=True, frozen=True):
    """The end of your log, please. Answered by LogText."""

    max_bytes: Annotated[int, Meta(ge=1, le=MAX_LOG_BYTES)]


class LogText(Call, tag="log_text", kw_only=True, frozen=True):
    """One payload frame: the last whole lines of the agent's log, UTF-8."""


# --- sending weights ---


class Offer(Call, tag="offer", kw_only=True, frozen=True):
    """Which of these parts do you hold? Answered by Have.

    Also tells the agent each part's size, so that it can check its disk before the first byte.
    """

    digests: Annotated[tuple[Digest, ...], Meta(max_length=2000)]
    sizes: Annotated[tuple[U63, ...], Meta(max_length=2000)]


class Have(Call, tag="have", kw_only=True, frozen=True):
    """For each offered digest, how many bytes of it are already there: all of them, or where to resume."""

    held: Annotated[tuple[U63, ...], Meta(max_length=2000)]
    disk_free: U63


class Constrain(Call, tag="constrain", kw_only=True, frozen=True):
    """Make a grammar ready for the last stage of a deployment. Payload: nothing, or tokenizer.json in as
    many frames as it takes.

    Answered by Done, or by Failed: `no_tokenizer` asks for the payload, `constraint` says why it cannot be used.
    """

    deployment: Id
    constraint: Constraint
    eos: Annotated[tuple[TokenId, ...], Meta(max_length=256)] = ()


class Chunk(Call, tag="chunk", kw_only=True, frozen=True):
    """Bytes `[offset, offset + len(frame))` of a part; one payload frame. Answered by ChunkAck.

    Flow control: a sender keeps at most 4 unanswered chunks on a connection.
    """

    digest: Digest
    offset: U63
    total: U63


class ChunkAck(Call, tag="chunk_ack", kw_only=True, frozen=True):
    """How far the part has come; `complete` after its hash was verified."""

    digest: Digest
    received: U63
    complete: bool


# --- stages ---


class Load(Call, tag="load", kw_only=True, frozen=True):
    """Build a stage. Payload: frame 0 the model's config as JSON, frame 1 its Parts (`encode_parts`).

    Answered by any number of LoadProgress and then Loaded or Failed. Every stage of a pipeline is
    loaded before the first Link, so that an agent knows its upstream's key before it connects.
    """

    deployment: Id
    plan: Id
    epoch: U63
    stage: U32
    stages: Annotated[int, Meta(ge=1, le=1024)]
    start: Layer
    end: Layer
    model: Name
    dtype: ComputeDType
    kv_tokens: Annotated[int, Meta(ge=1, le=2**40)]
    """Tokens of KV cache to set aside, over all sequences."""
    max_context: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    max_sequences: Annotated[int, Meta(ge=1, le=65536)]
    prefill_chunk: Annotated[int, Meta(ge=1, le=65536)]
    """The most prompt tokens in one step."""
    quantize: Quantize = "none"
    """Into what the float matrices of the layers are put; those that are stored in blocks stay so in any case."""
    kv_dtype: KvDType = "computed"
    """In what keys and values are kept, where the stage can; the way `kv_int8` says why where it cannot."""
    journal_bytes: Annotated[int, Meta(ge=0, le=2**40)] = 0
    """What the stage may keep of what it sent, so that the next one's states can be computed again where it is lost; 0
    keeps nothing. Comes out of the memory for stages where that is main memory."""
    upstream_key: Z85Key | None
    """Public key of the agent that sends this stage its steps; None on the first stage."""
    ring_key: Z85Key | None
    """On the first stage: public key of the last stage's agent, which sends the tokens back."""


class LoadProgress(Call, tag="load_progress", kw_only=True, frozen=True):
    done_bytes: U63
    total_bytes: U63


class Loaded(Call, tag="loaded", kw_only=True, frozen=True):
    weight_bytes: U63
    kv_bytes: U63
    seconds: Seconds
    ways: Ways
    """How the stage runs. Not `batched`: a pass for each sequence; not `pieces`: every prompt in one step."""
    reuse: Reuse = "no"
    weights_error: Annotated[float, Meta(ge=0)] = 0.0
    """How far the weights are from those in the files because they were quantized, relative to their size (RMS)."""
    kv_error: Annotated[float, Meta(ge=0)] = 0.0
    """How far what comes out is, on the trial's texts, from what it is with keys and values as they are computed,
    relative to its size (RMS)."""
    answers_alone: bool = False
    """Whether it computes tokens that come one by one otherwise than the same tokens in a prompt."""
    block_tokens: BlockTokens = LEAST_BLOCK_TOKENS
    """In blocks of how many tokens a sequence takes memory there."""


class Link(Call, tag="link", kw_only=True, frozen=True):
    """Raise the stage's epoch, drop all of its sequences but the resumed ones, and connect it to its neighbours.

    An address of None means the agent itself. Answered by Done.
    """

    deployment: Id
    stage: U32
    epoch: U63
    downstream: Address | None = None
    downstream_key: Z85Key | None = None
    first: Address | None = None
    first_key: Z85Key | None = None
    """Where the last stage sends tokens besides the controller."""
    whole_prompts: bool = False
    """To the first stage: some stage cannot take a prompt in pieces."""
    reuse: Reuse = "no"
    """To the first stage: what every stage can take over from an earlier prompt."""
    answers_alone: bool = False
    """To the first stage: on some stage what was answered has to be read one token after another again."""
    block_tokens: BlockTokens = LEAST_BLOCK_TOKENS
    """To the first stage: the largest of all stages'."""
    lanes: Annotated[int, Meta(ge=1, le=1024)] = 1
    """To the first stage: steps that may be in flight at once, as many as stages can compute at the same time."""
    resumed: ResumedStates = ()
    """Sequences whose states stay, cut back to these lengths, the one whose turn comes next first. A stage that does
    not hold one of them has it recomputed. The first stage runs nothing before all that are not kept were started anew
    or cancelled, so that the first steps hold as many sequences as they would have held."""


class Unload(Call, tag="unload", kw_only=True, frozen=True):
    deployment: Id
    stage: U32


class Done(Call, tag="done", kw_only=True, frozen=True):
    """It is done."""


class Failed(Call, tag="failed", kw_only=True, frozen=True):
    """It could not be done. `kind` is one of `worker_agent.wire.errors`."""

    kind: Name
    message: Text
    needed: U63 = 0
    free: U63 = 0


class Drain(Call, tag="drain", kw_only=True, frozen=True):
    """Take no new loads and no new sequences (or take them again); what runs goes on."""

    draining: bool


class Shutdown(Call, tag="shutdown", kw_only=True, frozen=True):
    """Answer Done, end what runs, leave."""


# --- joining ---


class Join(Call, tag="join", kw_only=True, frozen=True):
    """From an agent to a controller that invited it: here is my token and where I listen."""

    token: Annotated[str, Meta(min_length=16, max_length=100)]
    agent: Id
    hostname: Name
    port: Annotated[int, Meta(ge=1, le=65535)]
    oldest: Annotated[int, Meta(ge=1, le=65535)]
    newest: Annotated[int, Meta(ge=1, le=65535)]


class Joined(Call, tag="joined", kw_only=True, frozen=True):
    """The controller has registered the agent under this address."""

    address: Address
