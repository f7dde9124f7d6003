"""The best boundaries for nodes in a given order: dynamic programming over boundaries, node after node.

What a stage takes is a difference of two sums, and a node reaches the farther the farther it begins, so the best
beginning for each end is the least of a window that only moves forward: each node costs time in proportion to the
boundaries, not to their square (the sliding minimum of a monotone queue).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.sharding.planning.problem import INFINITE, Problem, Rows


class Front(NamedTuple):
    """After some nodes of an order: the least seconds for all layers before a boundary."""

    first: int
    """The first boundary of which there is something to say."""
    seconds: list[float]
    """Of it and those behind it; infinite where these nodes cannot get."""

    def at(self, boundary: int) -> float:
        place = boundary - self.first
        return self.seconds[place] if 0 <= place < len(self.seconds) else INFINITE


def begun(row: Sequence[float], reach: Sequence[int]) -> Front:
    """After the first node."""
    return Front(1, list(row[1 : reach[0] + 1]))


def extended(front: Front, row: Sequence[float], reach: Sequence[int], last: int) -> Front:
    """After one node more, which takes at least what lies between two boundaries."""
    first, before = front
    count = len(before)
    least: deque[tuple[float, int]] = deque()
    found: list[float] = []
    base = row[0]
    for end in range(first + 1, last + 1):
        place = end - 1 - first
        if place < count:
            value = before[place] - row[end - 1]
            while least and least[-1][0] >= value:
                least.pop()
            least.append((value, end - 1))
        while least and reach[least[0][1]] < end:
            least.popleft()
        if least:
            found.append(least[0][0] + row[end] + base)
        elif place >= count - 1:
            break
        else:
            found.append(INFINITE)
    return Front(first + 1, found)


class Limits:
    """How far each node reaches: by its memory, a share of it, and perhaps by a time that no stage may exceed."""

    def __init__(self, problem: Problem, rows: Rows, share: float = 1.0, seconds: float = INFINITE) -> None:
        self._problem, self._rows, self._share, self.seconds = problem, rows, share, seconds
        self._within: dict[tuple[int, int], list[int]] = {}

    def within(self, seconds: float) -> Limits:
        """The same memory, and so many seconds for each stage."""
        return Limits(self._problem, self._rows, self._share, seconds)

    def of(self, node: int, agents: int = 1) -> list[int]:
        """For each boundary the farthest that a node reaches from it, being one of so many on its machine."""
        by_memory = self._problem.reach(node, self._share)
        if self.seconds == INFINITE:
            return by_memory
        known = self._within.get((node, agents))
        if known is None:
            known = self._problem.reach_within(self._rows[node], self.seconds / agents, by_memory)
            self._within[node, agents] = known
        return known


@dataclass(frozen=True)
class Ring:
    """Nodes in the order of the pipeline, with the boundaries between them, the outer ones among them."""

    nodes: tuple[int, ...]
    boundaries: tuple[int, ...]
    seconds: float
    """What a step takes for its whole round."""


def agents_of(problem: Problem, nodes: Sequence[int]) -> dict[str, int]:
    """How many of these nodes are on each machine."""
    counts: dict[str, int] = {}
    for node in nodes:
        machine = problem.machines[node]
        counts[machine] = counts.get(machine, 0) + 1
    return counts


def fronts(
    problem: Problem, rows: Rows, limits: Limits, nodes: Sequence[int], known: Sequence[Front] = ()
) -> list[Front]:
    """After each of the nodes; fewer where they cannot get on.

    Args:
        known: those after the first nodes, where they have been worked out.
    """
    agents = agents_of(problem, nodes) if limits.seconds < INFINITE else {}
    made = list(known)
    for node in nodes[len(made) :]:
        row, reach = rows[node], limits.of(node, agents.get(problem.machines[node], 1))
        front = begun(row, reach) if not made else extended(made[-1], row, reach, problem.last)
        if not front.seconds:
            break
        made.append(front)
    return made


def divided(problem: Problem, rows: Rows, limits: Limits, nodes: Sequence[int]) -> Ring | None:
    """All layers over these nodes in this order, each of them used; None where they do not fit so."""
    made = fronts(problem, rows, limits, nodes)
    if len(made) < len(nodes) or made[-1].at(problem.last) == INFINITE:
        return None
    agents = agents_of(problem, nodes) if limits.seconds < INFINITE else {}
    end = problem.last
    boundaries = [end]
    for place in range(len(nodes) - 1, 0, -1):
        row, reach = rows[nodes[place]], limits.of(nodes[place], agents.get(problem.machines[nodes[place]], 1))
        before = made[place - 1]
        end = min(
            (start for start in range(before.first, end) if reach[start] >= end),
            key=lambda start: before.at(start) - row[start],
        )
        boundaries.append(end)
    boundaries.append(0)
    return Ring(tuple(nodes), tuple(reversed(boundaries)), made[-1].at(problem.last) + problem.waits(nodes))
