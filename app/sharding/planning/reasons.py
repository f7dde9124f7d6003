"""A plan explained: a sentence for each node, and whether fewer machines would be faster. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.figures import amount_text, data_rate, duration, layers, size_text, token_rate
from app.sharding.placement import Reason
from app.sharding.planning.aiming import Solution, in_all, machines_of, one_token, solved, stage_seconds
from app.sharding.planning.aims import FASTEST, FEWEST, FITS, MOST
from app.sharding.planning.division import Limits, Ring
from app.sharding.planning.problem import INFINITE, Problem, Rows
from app.sharding.planning.search import Search

WORTH_SAYING = 1.02
"""By so many times other machines must be faster for it to be said."""
ALL_OF = 12
"""What all machines together would make is told where there are no more."""
INSERTED = 60
"""For so many nodes it is worked out what they would cost; those with the shortest ways."""


def reasons(problem: Problem, solution: Solution, aim: str, *, named: bool) -> list[Reason]:
    """Of every node that was offered: first those that take layers, in the order of the stages."""
    ring = solution.ring
    taken = [_taking(problem, ring, solution.rows, place) for place in range(len(ring.nodes))]
    left = [node for node in range(len(problem.offers)) if node not in ring.nodes]
    told = _left_out(problem, solution, aim, left, named=named)
    return taken + [_reason(problem, node, f"is left out: {told(node)}") for node in left]


def _reason(problem: Problem, node: int, text: str) -> Reason:
    capacity = problem.offers[node].capacity
    return Reason(capacity.node_id, capacity.name, text)


def _taking(problem: Problem, ring: Ring, rows: Rows, place: int) -> Reason:
    node, (start, end) = ring.nodes[place], ring.boundaries[place : place + 2]
    span = layers(problem.boundaries[start], problem.boundaries[end])
    memory = amount_text(problem.memory[start][end], problem.free[node])
    parts = [f"{duration(stage_seconds(ring, rows)[place])} of a step", f"{memory} that it has free"]
    if len(ring.nodes) > 1:
        following = ring.nodes[(place + 1) % len(ring.nodes)]
        name = problem.offers[following].capacity.name
        ids = problem.offers[node].record.id, problem.offers[following].record.id
        if ids in problem.dead:
            parts.append(f"its link to {name} did not work when it was last measured (doctor --links)")
        else:
            parts.append(f"{duration(problem.hops[node][following])} on to {name}")
    if node in problem.guessed:
        parts.append(f"as fast as others, for it has not measured itself in {problem.serving.dtype}")
    return _reason(problem, node, f"takes {span}: {', '.join(parts)}")


def _left_out(
    problem: Problem, solution: Solution, aim: str, left: Sequence[int], *, named: bool
) -> Callable[[int], str]:
    """Why a node gets nothing, in words without a full stop."""
    ring, rows = solution.ring, solution.rows
    limits = Limits(problem, rows)
    able = [node for node in left if limits.holds_any(node)]
    inserted = {node: _inserted(problem, ring, node) for node in able}
    nearest = frozenset(sorted(able, key=lambda node: inserted[node][0])[:INSERTED])
    machines = machines_of(problem, ring.nodes)
    search = Search(problem, rows, limits)
    rest = "" if len(nearest) == len(able) else "others are nearer and faster"

    def told(node: int) -> str:
        if node not in inserted:
            return f"the {size_text(problem.free[node])} that it has free hold no layer"
        if named:
            return "the others hold it all, and with it they could not"
        if aim == FEWEST:
            return "one machine is enough" if machines == 1 else f"{machines} machines are enough"
        if aim == FITS:
            return "the fullest node would keep no more of its memory free"
        if node not in nearest:
            return rest
        ways, nodes = inserted[node]
        return _costs(problem, solution, aim, node, search, ways, nodes)

    return told


def _costs(
    problem: Problem, solution: Solution, aim: str, node: int, search: Search, ways: float, nodes: tuple[int, ...]
) -> str:
    """What a node more would cost, and what of it: its ways, or its own slowness."""
    together = " in all" if aim == MOST else ""
    before = solution.value[0]
    if aim == MOST:
        rows = solution.rows
        made = search.ring(nodes)
        after = INFINITE if made is None else in_all(problem, made, rows)
    else:
        after = search.cost(nodes)
    if after == INFINITE:
        return "with it the layers could not be divided"
    lost = 1 / before - 1 / after
    if lost < 0.05 or round(1 / before, 1) == round(1 / after, 1):
        return f"with it there would be no more tokens/s{together}"
    rate = token_rate(lost)
    if ways >= (after - before) / 2 or aim == MOST:
        return f"its link would cost {rate}{together}"
    return f"it would cost {rate}, reading weights at {data_rate(problem.speeds[node].read_bytes_per_second)}"


def _inserted(problem: Problem, ring: Ring, node: int) -> tuple[float, tuple[int, ...]]:
    """The ring with a node more, where its ways are shortest, and what they take."""
    before = problem.waits(ring.nodes)
    options = (
        (*ring.nodes[:place], node, *ring.nodes[place:]) for place in range(len(ring.nodes) + 1)
    )  # fmt: skip
    ways, nodes = min((problem.waits(nodes) - before, nodes) for nodes in options)
    return ways, nodes


def remark(problem: Problem, solution: Solution, aim: str, *, named: bool) -> str:
    """That fewer machines are faster, with the figures; empty where they are not."""
    rows, ring = problem.token_rows(), solution.ring
    here = 1 / one_token(problem, ring, rows)
    count = machines_of(problem, ring.nodes)
    if aim == FASTEST and not named:
        every = machines_of(problem, range(len(problem.offers)))
        if count == every or len(problem.offers) > ALL_OF:
            return ""
        seconds = _over_all(problem, ring, rows)
        if seconds == INFINITE or here < WORTH_SAYING / seconds:
            return ""
        return (
            f"Fewer machines are faster: {_machines(count)} about {_rate(here)}, all {every} would make about "
            f"{_rate(1 / seconds)}."
        )
    if count == 1:
        return ""
    other = solved(problem, FASTEST, quick=True)
    if other is None:
        return ""
    fewer, there = machines_of(problem, other.ring.nodes), 1 / one_token(problem, other.ring, rows)
    if fewer >= count or there < here * WORTH_SAYING:
        return ""
    names = " and ".join(problem.offers[node].capacity.name for node in other.ring.nodes)
    who = f"{names} alone" if fewer <= 2 else f"{fewer} machines"
    return (
        f"Fewer machines are faster for one answer: {who} would make about {_rate(there)}, these {count} make about "
        f"{_rate(here)}."
    )


def _over_all(problem: Problem, ring: Ring, rows: Rows) -> float:
    """Seconds of a token with all nodes in the ring, each put in where its ways are shortest."""
    nodes = ring.nodes
    for node in range(len(problem.offers)):
        if node not in nodes:
            _, nodes = _inserted(problem, Ring(nodes, (), 0.0), node)
    return Search(problem, rows, Limits(problem, rows)).cost(nodes)


def _machines(count: int) -> str:
    return "one makes" if count == 1 else f"{count} make"


def _rate(tokens_per_second: float) -> str:
    return token_rate(round(tokens_per_second) if tokens_per_second >= 10 else tokens_per_second)
