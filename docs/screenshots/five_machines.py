"""Five unlike machines that are only said to be there, for the pictures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.models.description import ModelDescription
    from app.ui.snapshots import DeploymentSnapshot
    from worker_agent.wire.messages import StageInfo


def fill_cluster(application: object) -> None:
    """Five unlike machines with ten minutes behind them, two models, one of them deployed over three nodes."""
    import math
    from collections import deque
    from dataclasses import replace

    from app.inference.events import StepPassed
    from app.registry.records import NodeRecord
    from app.ui.application import Application
    from app.ui.cluster import Sample
    from app.ui.lists import Lists
    from tests.ui.simulated import MB, deployment, health, model, node_record
    from worker_agent.wire.messages import StageTime

    assert isinstance(application, Application)
    cluster = application.workbench.cluster
    budgets = {1: 24_000, 2: 12_000, 3: 12_000, 4: 8_000, 5: 4_000}
    names = {1: "studio", 2: "rack-1", 3: "rack-2", 4: "laptop", 5: "living-room-media-pc-under-the-television"}
    chips = {1: "Apple M2 Max", 2: "NVIDIA RTX 4070", 3: "NVIDIA RTX 4070", 4: "Intel Core i7-1370P", 5: "Intel N100"}
    speeds = {1: 400e9, 2: 500e9, 3: 500e9, 4: 60e9, 5: 25e9}

    def record(id: int) -> NodeRecord:
        made = node_record(id, name=names[id], budget=budgets[id] * MB)
        measured = {"dtype": "bfloat16", "read_bytes_per_second": speeds[id], "flops_per_second": 60 * speeds[id]}
        made.capacities.update(cpu_name=chips[id], speeds=[measured])
        return made

    big = in_bfloat16(model("Qwen3-14B", layers=40, layer_bytes=660 * MB, end_bytes=1_556 * MB))
    small = model("SmolLM2-135M-Instruct", layers=30, layer_bytes=14 * MB, end_bytes=57 * MB)
    deployed = deployment("1f2e3d4c", big, [(1, 0, 22), (2, 22, 32), (3, 32, 40)])
    deployed = replace(deployed, record=replace(deployed.record, dtype="bfloat16", context=16_384, kv_tokens=16_384))
    cluster.take_lists(Lists(tuple(record(id) for id in budgets), (big, small), (deployed,)))
    used = {1: 16_700, 2: 7_000, 3: 7_200, 4: 0, 5: 0}
    now = datetime.now(UTC)
    stages = {id: (held(deployed, number, big),) for number, id in enumerate((1, 2, 3))}
    cluster.take_node_events(
        [
            health(
                id, cpu=load(id, 599), budget=budgets[id] * MB, used=used[id] * MB, rtt=0.0004 * id,
                stages=stages.get(id, ()),
            )
            for id in budgets
        ]
    )  # fmt: skip
    for id in budgets:
        works = id <= 3
        cluster._history[id] = deque(
            Sample(
                at=now.timestamp() - 600 + second, cpu=load(id, second),
                memory=(used[id] + 4_000 + 900 * id + 150 * math.sin(second / 70 + id)) * MB, gpu=None, gpu_memory=None,
                tokens_per_second=20.5 + math.sin(second / 25) if works and second % 240 > 60 else 0.0,
                step_ms=(12 + 3 * id + 0.6 * math.sin(second / 15 + id)) if works and second % 240 > 60 else None,
                rtt_ms=0.4 * id + 0.05 * math.sin(second / 9 + id),
            )
            for second in range(600)
        )  # fmt: skip
    times = (StageTime(0, 90, 17_000), StageTime(1, 120, 12_000), StageTime(2, 140, 11_000))
    cluster.take_steps([StepPassed("1f2e3d4c", 1, 0, times)] * 42)


def held(view: DeploymentSnapshot, number: int, model: ModelDescription) -> StageInfo:
    """A stage as its agent would tell it. The last one has no kernels for two of the ways."""
    from worker_agent.wire.messages import StageInfo, Way

    shard = view.shards[number]
    layers = shard.end_layer - shard.start_layer
    off = "only the CPU's kernels read packed weights"
    return StageInfo(
        deployment=view.record.id, plan=view.record.plan_hash, epoch=1, stage=number, stages=len(view.shards),
        start=shard.start_layer, end=shard.end_layer, model=model.name, weight_bytes=layers * 660_000_000,
        kv_bytes=layers * 4_000_000, kv_tokens=view.record.kv_tokens, kv_used_tokens=0, kv_held_bytes=0, sequences=0,
        ways=(
            Way("norms", 4 * layers, 4 * layers), Way("joined", 5 * layers, 5 * layers),
            Way("packed", 4 * layers, 4 * layers) if number == 0 else Way("packed", 0, 0, off),
            Way("batched", layers, layers), Way("recorded", 1, 1),
        ),
    )  # fmt: skip


def in_bfloat16(description: ModelDescription) -> ModelDescription:
    """The same bytes, as half as many bits a number."""
    import msgspec

    parts = tuple(
        msgspec.structs.replace(
            part, tensors=tuple(msgspec.structs.replace(tensor, dtype="BF16") for tensor in part.tensors)
        )
        for part in description.parts
    )
    return msgspec.structs.replace(
        description, parts=parts, dtype="bfloat16", architecture="Qwen3ForCausalLM", parameters=14_768_307_200,
        max_context=40_960, hidden_size=5120, vocab_size=151_936, kv_elements=(2048,) * description.num_layers,
        folder="/models/Qwen3-14B", source="hub", origin="Qwen/Qwen3-14B",
    )  # fmt: skip


def load(node: int, second: int) -> float:
    """Percent of CPU that a made-up node shows: three of them answer now and then, two idle."""
    import math

    wave = math.sin(second / 40 + node) + 0.35 * math.sin(second / 11 + 2 * node)
    if node > 3:
        return 7 + 2 * wave + node
    return (48 + 9 * wave + 4 * node) if second % 240 > 60 else 12 + 3 * wave
