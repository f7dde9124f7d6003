"""What a machine can do, in words."""

from __future__ import annotations

from msgspec.structs import replace

from app.cluster.machine_figures import gpus_of, machine_facts, speeds_of
from app.cluster.node_records import capacities_of
from worker_agent.wire.messages import DiskSpeed, Gpu, Numerics, Speed, Welcome

WELCOME = Welcome(
    call=1, version=1, boot="boot", agent="agent", hostname="box", system="Linux", software="0", cpu_name="",
    cpu_count=2, numerics=Numerics("cpu", "2", "5", 1, ()), memory_total=1, memory_budget=1, memory_base=1, disk_free=1,
    gpus=(), stages=(),
)  # fmt: skip


def test_each_dtype_and_each_gpu_is_told_and_what_cannot_be_read_is_left_out() -> None:
    capacities: dict[str, object] = {
        "speeds": [
            {"dtype": "float32", "read_bytes_per_second": 19.6e9, "flops_per_second": 95.4e9},
            {"dtype": "bfloat16", "read_bytes_per_second": 2e12, "flops_per_second": 1.4e12},
            {"dtype": "of another version", "read": 1},
        ],
        "disk": {"cached_bytes_per_second": 4.2e9, "bytes_per_second": 5.5e8},
        "gpus": [{"name": "Big GPU", "memory_total": 24 * 10**9, "memory_free": 1, "power_limit": 450.0}],
    }
    assert machine_facts(capacities) == [
        ("In float32", "reads weights at 19.6 GB/s, computes 95 GFLOP/s"),
        ("In bfloat16", "reads weights at 2 TB/s, computes 1.4 TFLOP/s"),
        (
            "Shard store",
            "reads 550 MB/s from disk, 4.2 GB/s where the system still has a file in memory (cached)",
        ),
        ("GPU", "Big GPU, 24 GB, may draw 450 W"),
    ]
    assert speeds_of(capacities)[0] == Speed("float32", 19.6e9, 95.4e9)
    assert gpus_of(capacities) == (Gpu("Big GPU", 24 * 10**9, 1, power_limit=450.0),)
    cached = machine_facts({"disk": {"cached_bytes_per_second": 4.2e9}})
    assert cached == [
        (
            "Shard store",
            "reads 4.2 GB/s where the system still has a file in memory (cached); all that was read was cached, so the "
            "disk itself was not measured",
        )
    ]


def test_of_a_machine_that_has_not_measured_itself_nothing_is_told() -> None:
    assert machine_facts({}) == machine_facts({"speeds": None, "gpus": "none"}) == []


def test_what_was_measured_of_a_disk_stays_when_all_is_cached_today() -> None:
    known: dict[str, object] = {"disk": {"cached_bytes_per_second": 4e9, "bytes_per_second": 5e8}}
    cached = capacities_of(replace(WELCOME, disk=DiskSpeed(3e9)), known)
    assert cached["disk"] == {"cached_bytes_per_second": 3e9, "bytes_per_second": 5e8}
    assert capacities_of(WELCOME, known)["disk"] == known["disk"], "its store is empty now"
    fresh = capacities_of(replace(WELCOME, disk=DiskSpeed(3e9, 6e8)), known)
    assert fresh["disk"] == {"cached_bytes_per_second": 3e9, "bytes_per_second": 6e8}
    assert capacities_of(WELCOME)["disk"] is None
