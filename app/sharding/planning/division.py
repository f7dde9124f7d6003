"""The best boundaries for nodes in a given order: dynamic programming over boundaries, node after node.

What a stage takes is a difference of two sums, and a node reaches the farther the farther it begins, so the best
beginning for each end is the least of a window that only moves forward: each node costs time in proportion to the
boundaries, not to their square (the sliding minimum of a monotone queue).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub
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


def ended(row: Sequence[float], reach: Sequence[int], last: int) -> list[float]:
    """Before the last node: for each boundary the seconds of all layers behind it."""
    behind = row[last] + row[0]
    return [behind - row[start] if reach[start] >= last else INFINITE for start in range(last)] + [INFINITE]


def preceded(after: Sequence[float], row: Sequence[float], reach: Sequence[int], last: int) -> list[float]:
    """Before one node more, which takes at least what lies between two boundaries.

    Args:
        after: the same for the nodes behind it.
    """
    least: deque[tuple[float, int]] = deque()
    found = [INFINITE] * (last + 1)
    base = row[0]
    for start in range(last - 1, -1, -1):
        value = after[start + 1] + row[start + 1]
        if value < INFINITE:
            while least and least[-1][0] >= value:
                least.pop()
            least.append((value, start + 1))
        farthest = reach[start]
        while least and least[0][1] > farthest:
            least.popleft()
        if least:
            found[start] = least[0][0] - row[start] + base
    return found


class Limits:
    """How far each node reaches: by its memory, a share of it, and perhaps by a time that no stage may exceed."""

    def __init__(self, problem: Problem, rows: Rows, share: float = 1.0, seconds: float = INFINITE) -> None:
        self._problem, self._rows, self._share, self.seconds = problem, rows, share, seconds
        self._within: dict[tuple[int, int], list[int]] = {}

    def within(self, seconds: float) -> Limits:
        """The same memory, and so many seconds for each stage."""
        return Limits(self._problem, self._rows, self._share, seconds)

    def farthest(self, node: int, start: int) -> int:
        """One boundary's, where few are asked for, of a node that is alone on its machine."""
        most = self._problem.farthest(node, start, self._share)
        if self.seconds == INFINITE:
            return most
        return self._problem.farthest_within(self._rows[node], self.seconds, start, most)

    def holds_any(self, node: int) -> bool:
        """Whether there is a place in the model where a node gets on at all."""
        row = self._rows[node]
        if min(map(sub, row[1:], row)) + row[0] > self.seconds:
            return False
        return any(self.farthest(node, start) > start for start in range(len(row) - 1))

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
    made = list(known)
    for node, reach in zip(nodes[len(made) :], _reaches(problem, limits, nodes)[len(made) :], strict=True):
        row = rows[node]
        front = begun(row, reach) if not made else extended(made[-1], row, reach, problem.last)
        if not front.seconds:
            break
        made.append(front)
    return made


def _reaches(problem: Problem, limits: Limits, nodes: Sequence[int]) -> list[list[int]]:
    """How far each of these nodes reaches, together as they are."""
    if limits.seconds == INFINITE:
        return [limits.of(node) for node in nodes]
    agents = agents_of(problem, nodes)
    return [limits.of(node, agents[problem.machines[node]]) for node in nodes]


def rears(problem: Problem, rows: Rows, limits: Limits, nodes: Sequence[int]) -> list[list[float]]:
    """Before each of the nodes, by the first boundary behind it: the seconds of all that follows.

    Each of the nodes is on a machine of its own, or there is no limit of time.
    """
    last = problem.last
    made = [ended(rows[nodes[-1]], limits.of(nodes[-1]), last)]
    for node in nodes[-2::-1]:
        made.append(preceded(made[-1], rows[node], limits.of(node), last))
    return made[::-1]


def divided(problem: Problem, rows: Rows, limits: Limits, nodes: Sequence[int]) -> Ring | None:
    """All layers over these nodes in this order, each of them used; None where they do not fit so."""
    last = problem.last
    reaches = _reaches(problem, limits, nodes)
    needed = [last]
    for reach in reversed(reaches):  # from a boundary before it the others could not get to the end
        needed.append(bisect_left(reach, needed[-1]))
    needed.reverse()
    made: list[Front] = []
    for node, reach, least in zip(nodes, reaches, needed[1:], strict=True):
        front = extended(made[-1], rows[node], reach, last) if made else begun(rows[node], reach)
        if least > front.first:
            front = Front(least, front.seconds[least - front.first :])
        if not front.seconds:
            return None
        made.append(front)
    seconds = made[-1].at(last)
    if seconds == INFINITE:
        return None
    end = last
    boundaries = [end]
    for place in range(len(nodes) - 1, 0, -1):
        row, reach, (first, before) = rows[nodes[place]], reaches[place], made[place - 1]
        # The nearest start that reaches so far; those behind it do, too.
        low = max(first, bisect_left(reach, end))
        end = min(range(low, min(end, first + len(before))), key=lambda start: before[start - first] - row[start])
        boundaries.append(end)
    boundaries.append(0)
    return Ring(tuple(nodes), tuple(reversed(boundaries)), seconds + problem.waits(nodes))
