"""What a node's machine can do, as HTTP answers with it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field

from app.cluster.machine_figures import gpus_of, speeds_of


class SpeedView(BaseModel):
    """What a node's agent has measured of its machine in one dtype."""

    dtype: str
    read_bytes_per_second: float = Field(description="of weights, in a step of one token")
    flops_per_second: float = Field(description="in a step of many tokens")

    @classmethod
    def all_of(cls, capacities: Mapping[str, object]) -> list[SpeedView]:
        return [
            cls(
                dtype=speed.dtype,
                read_bytes_per_second=speed.read_bytes_per_second,
                flops_per_second=speed.flops_per_second,
            )
            for speed in speeds_of(capacities)
        ]


class GpuView(BaseModel):
    """A GPU of a node's machine; memory in bytes."""

    name: str
    memory_total: int

    @classmethod
    def all_of(cls, capacities: Mapping[str, object]) -> list[GpuView]:
        return [cls(name=gpu.name, memory_total=gpu.memory_total) for gpu in gpus_of(capacities)]
