"""What a machine can do, in words."""

from __future__ import annotations

from app.cluster.machine_figures import gpus_of, machine_facts, speeds_of
from worker_agent.wire.messages import Gpu, Speed


def test_each_dtype_and_each_gpu_is_told_and_what_cannot_be_read_is_left_out() -> None:
    capacities: dict[str, object] = {
        "speeds": [
            {"dtype": "float32", "read_bytes_per_second": 19.6e9, "flops_per_second": 95.4e9},
            {"dtype": "bfloat16", "read_bytes_per_second": 2e12, "flops_per_second": 1.4e12},
            {"dtype": "of another version", "read": 1},
        ],
        "gpus": [{"name": "Big GPU", "memory_total": 24 * 10**9, "memory_free": 1}],
    }
    assert machine_facts(capacities) == [
        ("In float32", "reads weights at 19.6 GB/s, computes 95 GFLOP/s"),
        ("In bfloat16", "reads weights at 2 TB/s, computes 1.4 TFLOP/s"),
        ("GPU", "Big GPU, 24 GB"),
    ]
    assert speeds_of(capacities)[0] == Speed("float32", 19.6e9, 95.4e9)
    assert gpus_of(capacities) == (Gpu("Big GPU", 24 * 10**9, 1),)


def test_of_a_machine_that_has_not_measured_itself_nothing_is_told() -> None:
    assert machine_facts({}) == machine_facts({"speeds": None, "gpus": "none"}) == []
