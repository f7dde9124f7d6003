"""Nodes, models and deployments that are only said to be there, fed into the cluster's mirror."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from app.cluster.health import NodeHealth
from app.models.description import ModelDescription, PartSource, TensorSource
from app.registry.records import ComparisonRecord, DeploymentRecord, DeploymentStatus, NodeRecord, ShardRecord
from app.ui.cluster import Cluster
from app.ui.lists import Lists
from app.ui.snapshots import DeploymentSnapshot
from worker_agent.wire.messages import HealthReport, Progress, StageInfo, Way

MB = 1_000_000
START = datetime(2026, 1, 1, tzinfo=UTC)


def node_record(id: int, *, name: str = "", here: bool = False, budget: int = 4_000 * MB) -> NodeRecord:
    return NodeRecord(
        id=id, hostname=name or f"node-{id}", ip_address=f"10.0.0.{id}", port=7600, public_key="k" * 40,
        agent_id=f"{id:016x}", is_active=True, draining=False, last_heartbeat=datetime.now(UTC),
        capacities={"cpu_name": "Made-up CPU 3000", "memory_budget": budget, "gpus": [], "cpu_count": 8,
                    "system": "Linux", "memory_total": 2 * budget},
        local_pid=4000 + id if here else None, created_at=START, updated_at=START,
    )  # fmt: skip


def health(
    id: int,
    *,
    cpu: float = 25.0,
    budget: int = 4_000 * MB,
    used: int = 0,
    busy: float | None = None,
    rtt: float = 0.002,
    held: int = 0,
    stages: tuple[StageInfo, ...] = (),
) -> NodeHealth:
    report = HealthReport(
        call=1, boot="b" * 16, cpu_percent=cpu, process_cpu_percent=cpu, load_1m=0.5, memory_total=2 * budget,
        memory_available=budget, process_memory=held or 300 * MB + used, memory_base=300 * MB,
        memory_held=300 * MB + used, memory_budget=budget, memory_used=used, disk_free=10**11, gpus=(),
        progress=Progress(steps_done=1, busy_seconds=busy, busy_tokens=1, step_p99=0.02), stages=stages,
        draining=False, loading=0, dropped=0,
    )  # fmt: skip
    return NodeHealth(id, datetime.now(UTC), rtt, report)


def held(view: DeploymentSnapshot, number: int, *ways: Way) -> StageInfo:
    """A stage of a deployment as its agent would tell it."""
    shard, record = view.shards[number], view.record
    return StageInfo(
        deployment=record.id, plan=record.plan_hash, epoch=record.epoch, stage=number, stages=len(view.shards),
        start=shard.start_layer, end=shard.end_layer, model=record.model_name, weight_bytes=100 * MB, kv_bytes=10 * MB,
        kv_tokens=record.kv_tokens, kv_used_tokens=0, kv_held_bytes=0, sequences=0, ways=ways,
    )  # fmt: skip


def model(
    name: str = "made-up-8b", *, layers: int = 12, layer_bytes: int = 100 * MB, end_bytes: int = 80 * MB
) -> ModelDescription:
    def part(kind: str, index: int, nbytes: int) -> PartSource:
        return PartSource(
            kind, index, (TensorSource(f"{kind}.{index}", "F32", (nbytes // 4,), nbytes, "model.safetensors", 0),)
        )  # type: ignore[arg-type]

    parts = (
        part("first", 0, end_bytes),
        *(part("layer", i, layer_bytes) for i in range(layers)),
        part("last", 0, end_bytes),
    )
    return ModelDescription(
        name=name, folder="/nowhere", source="folder", architecture="LlamaForCausalLM", model_type="llama",
        num_layers=layers, parameters=(layers * layer_bytes + 2 * end_bytes) // 4,
        weight_bytes=layers * layer_bytes + 2 * end_bytes, dtype="float32", max_context=4096, hidden_size=512,
        vocab_size=32000, kv_elements=(256,) * layers, kv_vectors=(4,) * layers,
        cuts=tuple(range(1, layers)), parts=parts,
    )  # fmt: skip


def deployment(id: str, model: ModelDescription, stages: list[tuple[int, int, int]]) -> DeploymentSnapshot:
    """Ready; `stages` are (node, start, end)."""
    record = DeploymentRecord(
        id=id, model_name=model.name, plan_hash="p" * 16, dtype="float32", context=2048, kv_tokens=2048,
        quantize="none", kv_dtype="computed", wait_seconds=30, recovery="fast", replica_of="", aim="", epoch=1,
        status=DeploymentStatus.READY, error=None, created_at=START, updated_at=START,
    )  # fmt: skip
    shards = tuple(
        ShardRecord(
            id=number + 1,
            node_id=node,
            deployment_id=id,
            model_name=model.name,
            shard_id=number,
            start_layer=start,
            end_layer=end,
            is_loaded=True,
            path=None,
            created_at=START,
            updated_at=START,
        )
        for number, (node, start, end) in enumerate(stages)
    )
    return DeploymentSnapshot(record, shards)


def slower(node: int, *, id: int, following: int | None = None, times: float = 3.0) -> ComparisonRecord:
    """Of a run in which a token took so many times as long on a node as was predicted."""
    return ComparisonRecord(
        node_id=node, following_id=following, model_name="small", dtype="float32", quantize="none",
        token_predicted=0.01, token_measured=0.01 * times, prompt_predicted=0.1, prompt_measured=0.1,
        way_predicted=0.001, way_measured=0.001, read_bytes_per_second=20e9, flops_per_second=1e11, rtt=None, id=id,
        created_at=START,
    )  # fmt: skip


def measured(cluster: Cluster, **faster: float) -> None:
    """All nodes have read 20 GB of weights a second, or what is given: `node_2=40e9`."""
    records = []
    for view in cluster.nodes.values():
        read = faster.get(f"node_{view.id}", 20e9)
        speeds = [{"dtype": "float32", "read_bytes_per_second": read, "flops_per_second": 1e11}]
        records.append(replace(view.record, capacities={**view.record.capacities, "speeds": speeds}))
    cluster.take_lists(Lists(nodes=tuple(records)))


def fill(
    cluster: Cluster,
    *,
    nodes: int = 3,
    models: tuple[ModelDescription, ...] = (),
    deployments: tuple[DeploymentSnapshot, ...] = (),
    budget: int = 4_000 * MB,
) -> None:
    """Nodes 1 to `nodes`, alive, with these models and deployments."""
    cluster.take_lists(
        Lists(tuple(node_record(id, budget=budget) for id in range(1, nodes + 1)), tuple(models), tuple(deployments))
    )
    cluster.take_node_events([health(id, budget=budget) for id in range(1, nodes + 1)])
