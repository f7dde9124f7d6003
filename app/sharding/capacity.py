"""What nodes have to offer: free memory, and how fast they are beside each other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_low
from typing import TYPE_CHECKING

from app.sharding.prediction import speed_of

if TYPE_CHECKING:
    from app.registry.records import NodeRecord
    from worker_agent.wire.messages import HealthReport


@dataclass(frozen=True)
class NodeCapacity:
    """What a node has to offer, as far as placing needs to know."""

    node_id: int
    name: str
    free_memory: int
    """Bytes that weights and KV may take."""
    speed: float = 1.0
    """Relative to other nodes: twice as fast takes twice the bytes in the same time."""
    agent_memory: int = 0
    """Bytes of main memory that its agent takes itself, besides all stages. They are no part of `free_memory`."""
    used_memory: int = 0
    """Bytes that stages take there already."""
    on_gpu: bool = False
    """Whether stages lie in a GPU's memory, and the agent alone in main memory."""


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A node, and what its agent said last: from these alone it is reckoned what it has to offer, whoever asks."""

    record: NodeRecord
    report: HealthReport | None = None
    used: int | None = None
    """Bytes that stages take there, where others are reckoned with than it holds at this moment."""

    @property
    def budget(self) -> int:
        """Bytes that stages may take in all."""
        return self.report.memory_budget if self.report is not None else self._told("memory_budget")

    @property
    def agent_memory(self) -> int:
        """Bytes that the agent takes besides all stages."""
        return self.report.memory_base if self.report is not None else self._told("memory_base")

    @property
    def on_gpu(self) -> bool:
        """Whether its stages lie in a GPU's memory."""
        numerics = self.record.capacities.get("numerics")
        return isinstance(numerics, Mapping) and numerics.get("device", "cpu") != "cpu"

    def read_speed(self, dtype: str | None) -> float | None:
        """Bytes per second; None where its agent has not measured this dtype."""
        for speed in self.report.speeds if self.report is not None else ():
            if speed.dtype == dtype:
                return speed.read_bytes_per_second
        known = speed_of(self.record.capacities, dtype or "", None)
        return None if known is None else known.read_bytes_per_second

    def _told(self, name: str) -> int:
        value = self.record.capacities.get(name, 0)
        return value if isinstance(value, int) else 0


def node_capacities(nodes: Iterable[KnownNode], dtype: str | None = None) -> list[NodeCapacity]:
    """What nodes have free, and how fast they are beside each other in a compute dtype; alike without one."""
    nodes = tuple(nodes)
    speeds = relative_speeds(
        {node.record.id: node.read_speed(dtype) for node in nodes},
        {node.record.id: node.record.machine for node in nodes},
    )
    found = []
    for node in nodes:
        used = node.used if node.used is not None else node.report.memory_used if node.report is not None else 0
        found.append(
            NodeCapacity(
                node.record.id,
                node.record.hostname,
                max(0, node.budget - used),
                speeds[node.record.id],
                agent_memory=node.agent_memory,
                used_memory=used,
                on_gpu=node.on_gpu,
            )
        )
    return found


ALIKE = 0.15
"""Two measurements of one machine differ by so much; machines that differ by no more count as equally fast."""


def relative_speeds(measured: Mapping[int, float | None], machines: Mapping[int, str]) -> dict[int, float]:
    """How fast nodes are for placing, 1 being the median of what was measured.

    Agents of one machine have the same cores, so each counts as fast as the fastest of them was measured: what
    one found while another was busy says less. A node that has not measured counts as the median.

    Args:
        measured: bytes per second by node; None for a node that has not measured.
        machines: by node, a name that agents of one machine have in common.
    """
    fastest: dict[str, float] = {}
    for node, speed in measured.items():
        if speed is not None:
            fastest[machines[node]] = max(speed, fastest.get(machines[node], 0.0))
    speeds = {node: fastest.get(machines[node]) for node in measured}
    known = sorted(speed for speed in speeds.values() if speed is not None)
    if not known:
        return dict.fromkeys(measured, 1.0)
    levels = _levels(known)
    middle = levels[median_low(known)]
    return {node: 1.0 if speed is None else levels[speed] / middle for node, speed in speeds.items()}


def _levels(ascending: Sequence[float]) -> dict[float, float]:
    """Each speed's level: the mean of those that are alike."""
    levels: dict[float, float] = {}
    group: list[float] = []
    for speed in [*ascending, float("inf")]:
        if group and speed > group[0] * (1 + ALIKE):
            levels.update(dict.fromkeys(group, fmean(group)))
            group = []
        group.append(speed)
    return levels
