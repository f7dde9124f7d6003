"""What nodes have to offer: free memory, and how fast they are beside each other. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_low


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
