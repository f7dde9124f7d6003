"""Runs made by hand: what a test is about is given, the rest is as it would be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate

from app.runs.run import JobFacts, RequestFacts, Run, RunEvent
from app.runs.trace import (
    ChunkTime,
    DeploymentTrace,
    JobTrace,
    ModelFacts,
    NodeFacts,
    NodeMemory,
    Origin,
    Phase,
    Plan,
    RequestTrace,
    StagePlan,
    StageShare,
    TokenTime,
    Versions,
)

BEGAN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
NODES = ("studio", "mini", "attic")
VERSIONS = Versions(shardboard="0.3.0", python="3.11.2", system="Linux", wire=3, packages={"tokenizers": "0.22.1"})


def plan_of(count: int, *, layers: int = 12, weight_bytes: int = 100_000_000) -> Plan:
    """As many stages, each on a node of its own, all of the same size."""
    stages = tuple(
        StagePlan(
            stage=k, node_id=k + 1, node=NODES[k % 3], start=k * layers, end=(k + 1) * layers,
            weight_bytes=weight_bytes, kv_bytes=20_000_000,
        )
        for k in range(count)
    )  # fmt: skip
    return Plan(
        deployment="d1", plan_hash="ab" * 32, model="smol", dtype="bfloat16", context=2048, kv_tokens=8192, epoch=3,
        stages=stages,
    )  # fmt: skip


def nodes_of(count: int, hosts: Sequence[str] = ("10.0.0.1", "10.0.0.2", "10.0.0.3")) -> tuple[NodeFacts, ...]:
    return tuple(
        NodeFacts(
            node_id=k + 1, name=NODES[k % 3], address=f"tcp://{hosts[k % len(hosts)]}:7700", system="Linux 6.1",
            cpu="Ryzen 9, 16 threads", device="cpu", threads=8, software="0.3.0", torch="2.13.0",
            transformers="5.23.0", memory_total=64_000_000_000, memory_budget=48_000_000_000,
        )
        for k in range(count)
    )  # fmt: skip


def trace_of(
    *,
    tokens: int,
    took_us: int,
    stages: Sequence[tuple[int, int]],
    first_step_us: int = 2_000,
    first_us: int = 30_000,
    hosts: Sequence[str] = ("10.0.0.1", "10.0.0.2", "10.0.0.3"),
) -> RequestTrace:
    """A steady answer: after the first token each took `took_us`; `stages` are (queue, compute) of every token."""
    shares = tuple(StageShare(queue, compute) for queue, compute in stages)
    took = [first_us, *[took_us] * (tokens - 1)][:tokens]
    at = [first_step_us + end for end in accumulate(took)]
    return RequestTrace(
        origin=Origin(via="http", user="laptop", client="openai-python 2.1 from 10.0.0.9"),
        versions=VERSIONS,
        model=ModelFacts(name="smol", architecture="LlamaForCausalLM", source="demo", layers=12 * len(stages),
                         parameters=135_000_000, dtype="bfloat16", content="cd" * 32),
        plan=plan_of(len(stages)) if stages else None,
        nodes=nodes_of(len(stages), hosts),
        first_step_us=first_step_us,
        tokens=tuple(TokenTime(end, took, 1, shares) for end, took in zip(at, took, strict=True)),
        memory=tuple(
            NodeMemory(node_id=k + 1, process=900_000_000, used=30_000_000_000, budget=48_000_000_000,
                       available=18_000_000_000)
            for k in range(len(stages))
        ),
    )  # fmt: skip


def request_run(
    trace: RequestTrace | None,
    *,
    id: str = "7",
    prompt: str = "What is the capital of France?",
    result: str = "The capital of France is Paris.",
    status: str = "completed",
    error: str | None = None,
    began: datetime = BEGAN,
    events: tuple[RunEvent, ...] = (),
    tokens: int | None = None,
) -> Run:
    """A request whose trace is given; `tokens` of the answer where the trace has none."""
    count = tokens if tokens is not None else 0 if trace is None else len(trace.tokens)
    total = 0 if trace is None or not trace.tokens else trace.tokens[-1].at_us
    took = 0 if trace is None or not trace.tokens else total - trace.tokens[0].at_us
    speed = 1e6 * (len(trace.tokens) - 1) / took if trace is not None and took else 86.9
    return Run(
        kind="request",
        id=id,
        model="smol",
        status=status,
        error=error,
        created_at=began,
        started_at=began + timedelta(microseconds=0 if trace is None else trace.first_step_us),
        completed_at=began + timedelta(microseconds=total + 1500),
        request=RequestFacts(
            prompt=prompt,
            result=result,
            parameters={"temperature": 0.7, "seed": 42, "max_tokens": 64, "stop": ["\n\n"]},
            prompt_token_ids=tuple(range(100, 109)),
            token_ids=tuple(range(500, 500 + count)),
            finish_reason="error" if error else "stop",
            prompt_tokens=9,
            completion_tokens=count,
            timings={
                "prepare": 0.002,
                "first_token": 0.032,
                "total": total / 1e6,
                "tokens_per_second": speed,
            },
            deployment_id="d1",
        ),
        trace=trace,
        events=events,
    )


def deployment_run(*, id: str = "d1", error: str | None = None, began: datetime = BEGAN) -> Run:
    """Two nodes that send, verify and load at the same time."""
    phases = tuple(
        Phase(name=name, node_id=k + 1, node=NODES[k], began_us=start, ended_us=end, total_bytes=nbytes)
        for k in range(2)
        for name, start, end, nbytes in (
            ("sending", 10_000, 900_000 + 300_000 * k, 180_000_000),
            ("loading", 900_000 + 300_000 * k, 2_000_000, 0),
        )
    )
    return Run(
        kind="deployment", id=id, model="smol", status="failed" if error else "ready", error=error, created_at=began,
        started_at=began, completed_at=began + timedelta(seconds=2.1),
        trace=DeploymentTrace(origin=Origin(via="command", user="ada"), versions=VERSIONS, plan=plan_of(2),
                              nodes=nodes_of(2), phases=phases, took_us=2_100_000, error=error),
        events=(RunEvent(at=began + timedelta(seconds=1), level="warning", source="node", message="mini is slow",
                         node_id=2, node="mini", details={"ms": 350}),),
    )  # fmt: skip


def job_run(*, id: str = "3", began: datetime = BEGAN) -> Run:
    return Run(
        kind="job", id=id, model="smol", status="done", error=None, created_at=began, started_at=began,
        completed_at=began + timedelta(seconds=5),
        job=JobFacts(kind="cut", title="Cut smol into 2 shards", details={"bytes": 270_000_000, "seconds": 4.8}),
        trace=JobTrace(origin=Origin(via="window", user="ada"), versions=VERSIONS, took_us=5_000_000,
                       phases=(Phase(name="writing", began_us=100_000, ended_us=4_900_000, total_bytes=270_000_000),)),
    )  # fmt: skip


def prompt_in_chunks() -> RequestTrace:
    """Three chunks in flight at once: they come 20 ms apart, each was computed for 50 ms."""
    shares = (StageShare(0, 30_000), StageShare(5_000, 15_000))
    chunks = tuple(
        ChunkTime(at, took, done, shares)
        for at, took, done in ((62_000, 60_000, 512), (82_000, 20_000, 1024), (102_000, 20_000, 1536))
    )
    token = TokenTime(122_000, 20_000, 1, shares)
    return RequestTrace(plan=plan_of(2), nodes=nodes_of(2), first_step_us=2_000, chunks=chunks, tokens=(token,))
