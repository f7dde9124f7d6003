"""What a node's agent has measured of its machine and found in it, put into words. Pure: capacities in, facts out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from app.figures import data_rate, flop_rate, size_text
from worker_agent.wire.messages import DiskSpeed, Gpu, Speed

T = TypeVar("T")


def speeds_of(capacities: Mapping[str, object]) -> tuple[Speed, ...]:
    """How fast it reads weights and computes in each dtype, as its agent measured; none where it has not yet."""
    return _read(capacities.get("speeds"), Speed)


def gpus_of(capacities: Mapping[str, object]) -> tuple[Gpu, ...]:
    """Its GPUs, as they were when its agent was greeted last."""
    return _read(capacities.get("gpus"), Gpu)


def disk_of(capacities: Mapping[str, object]) -> DiskSpeed | None:
    """How fast it reads its shard store; None where there was nothing to read when its agent began."""
    return next(iter(_read([capacities.get("disk")], DiskSpeed)), None)


def machine_facts(capacities: Mapping[str, object]) -> list[tuple[str, str]]:
    """Pairs of a name and a text: what it reads and computes in each dtype, its disk, its GPUs."""
    facts: list[tuple[str, str]] = []
    for speed in speeds_of(capacities):
        reads, computes = data_rate(speed.read_bytes_per_second), flop_rate(speed.flops_per_second)
        facts.append((f"In {speed.dtype}", f"reads weights at {reads}, computes {computes}"))
    if disk := disk_of(capacities):
        cached = f"{data_rate(disk.cached_bytes_per_second)} where the system still has a file in memory (cached)"
        disk_itself = disk.bytes_per_second
        told = f"reads {data_rate(disk_itself)} from disk, " if disk_itself else ""
        untold = "" if disk_itself else "; all that was read was cached, so the disk itself was not measured"
        facts.append(("Shard store", f"{told or 'reads '}{cached}{untold}"))
    for gpu in gpus_of(capacities):
        limit = f", may draw {gpu.power_limit:.0f} W" if gpu.power_limit else ""
        facts.append(("GPU", f"{gpu.name}, {size_text(gpu.memory_total)}{limit}"))
    return facts


def _read(told: Any, kind: type[T]) -> tuple[T, ...]:
    """Those that can be read: a registry may hold what an older agent has said."""
    found = []
    for each in told if isinstance(told, list | tuple) else ():
        try:
            found.append(msgspec.convert(each, kind))
        except msgspec.ValidationError:
            continue
    return tuple(found)
