"""What a node's machine can do, as HTTP answers with it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field

from app.cluster.machine_figures import disk_of, gpus_of, speeds_of


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


class DiskView(BaseModel):
    """How fast a node's agent reads its shard store, bytes per second."""

    cached_bytes_per_second: float = Field(description="of files that the system still has in memory")
    bytes_per_second: float | None = Field(description="of the disk itself; null while all that was read was in memory")

    @classmethod
    def of(cls, capacities: Mapping[str, object]) -> DiskView | None:
        disk = disk_of(capacities)
        if disk is None:
            return None
        return cls(cached_bytes_per_second=disk.cached_bytes_per_second, bytes_per_second=disk.bytes_per_second)


class GpuView(BaseModel):
    """A GPU of a node's machine; memory in bytes."""

    name: str
    memory_total: int
    power_limit: float | None = Field(default=None, description="what it may draw, watts, where it tells")

    @classmethod
    def all_of(cls, capacities: Mapping[str, object]) -> list[GpuView]:
        return [
            cls(name=gpu.name, memory_total=gpu.memory_total, power_limit=gpu.power_limit)
            for gpu in gpus_of(capacities)
        ]


class LogView(BaseModel):
    """The end of an agent's log."""

    node_id: int
    text: str = Field(description="its last whole lines")
