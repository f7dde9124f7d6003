"""Whether nodes can hold all layers at all, and in which order: of few nodes surely, of many by their room. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial

from app.sharding.planning.division import Limits
from app.sharding.planning.problem import Problem

FEW_SETS = 10
"""Of so many nodes all sets are tried."""
ENDS = 8
"""Of more so many are tried at each end: those that lose least by the embedding or the head."""


def covering(problem: Problem, limits: Limits, nodes: Sequence[int]) -> tuple[int, ...] | None:
    """Nodes that can hold all layers, in an order in which they do; of few nodes surely where there are any."""
    return _of_few(problem, limits, nodes) if len(nodes) <= FEW_SETS else _of_many(problem, limits, nodes)


def _of_many(problem: Problem, limits: Limits, nodes: Sequence[int]) -> tuple[int, ...] | None:
    """The roomiest, which of them comes first and last being chosen where that matters."""
    by_room = sorted(nodes, key=lambda node: -problem.free[node])
    if order := _walked(problem, limits, by_room):
        return order
    last, middle = problem.last, problem.last // 2
    room = {node: limits.farthest(node, middle) - middle for node in nodes}
    begin = {node: limits.farthest(node, 0) for node in nodes}
    end = {node: last - bisect_left(range(last), last, key=partial(limits.farthest, node)) for node in nodes}
    firsts = sorted((node for node in by_room if begin[node]), key=lambda node: room[node] - begin[node])[:ENDS]
    lasts = sorted((node for node in by_room if end[node]), key=lambda node: room[node] - end[node])[:ENDS]
    everything = sum(room.values())
    for first in firsts:
        for behind in lasts:
            if first == behind:
                continue
            # A layer more or less may be between layers of unlike sizes; what lacks more is not walked through.
            if everything - room[first] - room[behind] + begin[first] + end[behind] + len(nodes) < last:
                continue
            order = _walked(
                problem, limits, (first, *(node for node in by_room if node not in (first, behind)), behind)
            )
            if order:
                return order
    return None


def _of_few(problem: Problem, limits: Limits, nodes: Sequence[int]) -> tuple[int, ...] | None:
    farthest: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for chosen in range(1, 1 << len(nodes)):  # by the set of nodes, as bits: how far they get in their best order
        options = []
        for place, node in enumerate(nodes):
            if chosen >> place & 1:
                at, order = farthest[chosen & ~(1 << place)]
                end = limits.farthest(node, at)
                options.append((end, (*order, node) if end > at else order))
        farthest[chosen] = max(options, key=lambda option: (option[0], -len(option[1])))
        if farthest[chosen][0] == problem.last:
            return farthest[chosen][1]
    return None


def _walked(problem: Problem, limits: Limits, order: Sequence[int]) -> tuple[int, ...] | None:
    """Those of an order that are needed; its last node is kept for the last layers."""
    behind, last = order[-1], problem.last
    at, taken = 0, []
    for node in order[:-1]:
        if limits.farthest(behind, at) == last:
            break
        if (reached := limits.farthest(node, at)) > at:
            at = reached
            taken.append(node)
        if at == last:
            return tuple(taken)
    return (*taken, behind) if limits.farthest(behind, at) == last else None
