"""The aims as searches: each says what its best ring is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from app.sharding.plan import partition
from app.sharding.planning.aims import FEWEST, FITS, MOST
from app.sharding.planning.covering import covering
from app.sharding.planning.division import Limits, Ring, divided
from app.sharding.planning.problem import INFINITE, Problem, Rows
from app.sharding.planning.search import Search
from app.sharding.prediction import STREAMS, lanes_of, rows_of, seconds_in_all

EVEN = 0.005
"""Nothing is measured more exactly than that: of divisions that differ by no more the most even one is taken."""
CLOSE_ENOUGH = 0.001
"""Where a limit is sought by halving, it is known as well as that."""
FEW_FOR_MOST = 5
"""So many nodes are tried in all orders where many answers count: each limit of time is a search of its own."""
MACHINES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Of many nodes so many machines are tried for the most tokens in all."""
FIRST_STAGES, LAST_STAGES = 400, 1_200
"""So much is worked out to be better than what is known on other machines, and at last on as many."""
ATTEMPTS = 30
"""So often that is tried."""
AROUND = (0, 1, -1, 2, -2, 4, -4, 8, -8)
"""On so many machines more, in this order."""
STEP = 0.004
"""By so much it has to be better to be worth a search: nothing is measured more exactly (`EVEN`)."""
STAGES_THAT_FIT = 5_000
"""So much is worked out for the time of a plan whose memory has been decided (`Search`)."""
Solve = Callable[[Limits, int | None], Ring | None]
"""The fastest ring within limits, on so many machines or on any number."""


@dataclass(frozen=True)
class Solution:
    """The best ring for an aim."""

    ring: Ring
    value: tuple[float, ...]
    """What the aim wants little of: compared part by part."""
    rows: Rows
    """By which the aim has reckoned."""


def solved(problem: Problem, aim: str, named: Sequence[int] | None = None, *, quick: bool = False) -> Solution | None:
    """The best ring for an aim; None where nothing fits.

    Args:
        named: the nodes to use, in this order, each of them where that fits; None leaves both to the search.
        quick: of many nodes be content with what is found soon.
    """
    rows = problem.token_rows()
    limits = Limits(problem, rows)
    if named is not None:
        named = _fitting(problem, rows, limits, named)
        if named is None:
            return None
    if aim == MOST:
        return _most(problem, named)
    if aim == FITS:
        return _least_full(problem, rows, named)
    if aim == FEWEST and named is None:
        ring = _fewest(problem, rows, limits)
    else:
        ring = _solving(problem, rows, named, quick=quick)(limits, None)
    if ring is None:
        return None
    ring = _evened(problem, ring, rows, limits, lambda made: made.seconds)
    lead = (float(machines_of(problem, ring.nodes)),) if aim == FEWEST else ()
    return Solution(ring, (*lead, ring.seconds), rows)


def machines_of(problem: Problem, nodes: Sequence[int]) -> int:
    return len({problem.machines[node] for node in nodes})


def stage_seconds(ring: Ring, rows: Rows) -> list[float]:
    """What each stage takes of a step."""
    return [
        rows[node][end] - rows[node][start] + rows[node][0]
        for node, start, end in zip(ring.nodes, ring.boundaries, ring.boundaries[1:], strict=False)
    ]


def fullness(problem: Problem, ring: Ring) -> float:
    """The share of its free memory that the fullest node gives."""
    return max(
        problem.memory[start][end] / max(1, problem.free[node])
        for node, start, end in zip(ring.nodes, ring.boundaries, ring.boundaries[1:], strict=False)
    )


def one_token(problem: Problem, ring: Ring, rows: Rows) -> float:
    """Seconds of one token of one answer alone.

    Args:
        rows: for a step of one token.
    """
    return sum(stage_seconds(ring, rows)) + problem.waits(ring.nodes)


# --- each aim ------------------------------------------------------------------------------------------------


def _fewest(problem: Problem, rows: Rows, limits: Limits) -> Ring | None:
    every = machines_of(problem, range(len(problem.offers)))
    for count in range(_least_machines(problem, limits), every + 1):
        ring = Search(problem, rows, limits, machines=count).best()
        if ring is not None:
            return ring
    return None


def _least_machines(problem: Problem, limits: Limits) -> int:
    """So many machines it takes at least, by how much each can hold anywhere."""
    rooms: dict[str, int] = {}
    for node, machine in enumerate(problem.machines):
        most = max(end - at for at, end in enumerate(limits.of(node)))
        rooms[machine] = rooms.get(machine, 0) + most
    held = accumulate(sorted(rooms.values(), reverse=True))
    return next((count for count, together in enumerate(held, start=1) if together >= problem.last), len(rooms))


def _least_full(problem: Problem, rows: Rows, named: Sequence[int] | None) -> Solution | None:
    """The least share of memory within which it fits, and the fastest ring within that share."""
    everyone = range(len(problem.offers))

    def within(share: float) -> Ring | None:
        limits = Limits(problem, rows, share)
        if named is not None:
            return divided(problem, rows, limits, named)
        order = covering(problem, limits, everyone)
        return None if order is None else divided(problem, rows, limits, order)

    best = within(1.0)
    if best is None:
        return None
    low, high = 0.0, fullness(problem, best)
    while high - low > CLOSE_ENOUGH * high:
        middle = (low + high) / 2
        found = within(middle)
        if found is None:
            low = middle
        else:
            best, high = found, fullness(problem, found)
    limits = Limits(problem, rows, high * (1 + 1e-12))
    if named is None:
        best = Search(problem, rows, limits, stages=STAGES_THAT_FIT).best([best.nodes]) or best
    evened = _evened(problem, best, rows, limits, lambda made: made.seconds, by_memory=True)
    return Solution(evened, (fullness(problem, evened), evened.seconds), rows)


def _most(problem: Problem, named: Sequence[int] | None) -> Solution | None:
    """For each number of machines the ring that comes round fastest without a stage that holds the others up."""
    if named is not None:
        counts: Sequence[int] = (machines_of(problem, named),)
    else:
        most = min(machines_of(problem, range(len(problem.offers))), problem.last)
        counts = range(_least_machines(problem, Limits(problem, problem.token_rows())), most + 1)
    if named is None and len(problem.offers) > FEW_FOR_MOST:
        best = _most_of_many(problem, counts)
    else:
        best = None
        for count in counts:
            rows = problem.step_rows(rows_of(count))
            solve = _solving(problem, rows, named)
            found = _balanced(problem, rows, count, solve, INFINITE if best is None else best.value[0])
            if found is not None and (best is None or found.value < best.value):
                best = found
    if best is None:
        return None
    limits = Limits(problem, best.rows)
    ring = _evened(problem, best.ring, best.rows, limits, lambda made: in_all(problem, made, best.rows))
    return Solution(ring, (in_all(problem, ring, best.rows),), best.rows)


def _most_of_many(problem: Problem, counts: Sequence[int]) -> Solution | None:
    """For ever less time of a stage, on how many machines a ring still comes round as soon as that time asks.

    None on other machines can be better than one that is known unless no stage of it takes longer than this: so each
    search is within limits that leave out most of what there is to try.
    """
    tables: dict[float, Rows] = {}
    best: Solution | None = None
    left = ATTEMPTS

    def improved(count: int, stages: int) -> bool:
        nonlocal best, left
        left -= 1
        together = rows_of(count)
        rows = tables.get(together) or tables.setdefault(together, problem.step_rows(together))
        found = _below(problem, rows, count, best, stages)
        best = found or best
        return found is not None

    for count in [*counts[:1], *(one for one in MACHINES if counts[0] < one <= counts[-1])]:
        improved(count, FIRST_STAGES)
    found = best is not None
    while best is not None and found and left > 0:
        here = machines_of(problem, best.ring.nodes)
        around = [here + far for far in AROUND if counts[0] <= here + far <= counts[-1]]
        found = any(left > 0 and improved(count, FIRST_STAGES) for count in around)
    if best is not None:
        while improved(machines_of(problem, best.ring.nodes), LAST_STAGES):
            pass
    return best


def _below(problem: Problem, rows: Rows, count: int, best: Solution | None, stages: int) -> Solution | None:
    """A ring on so many machines that is better than the best by more than is measured; None where none was found."""
    lanes, limits = lanes_of(count), Limits(problem, rows)
    known = INFINITE if best is None else best.value[0] * (1 - STEP)
    around = known * STREAMS
    search = Search(problem, rows, limits.within(around / lanes), count, quick=True, stages=stages, enough=around)
    ring = search.best()
    if ring is None or ring.seconds > around:
        return None
    return _balanced(problem, rows, count, _solving(problem, rows, ring.nodes), INFINITE, first=ring)


def _balanced(
    problem: Problem, rows: Rows, count: int, solve: Solve, known: float, first: Ring | None = None
) -> Solution | None:
    """On so many machines: the longer a stage may take, the faster the round, and the longer the others wait for it.

    Args:
        known: what has been found elsewhere; nothing that is no better is looked for.
        first: where that is known, the fastest ring.
    """
    limits = Limits(problem, rows)
    ring = first or solve(limits, count)
    lanes = lanes_of(count)
    if ring is None or ring.seconds / STREAMS >= known:  # no limit makes a round faster
        return None
    best = ring
    low, high = ring.seconds / lanes, in_all(problem, ring, rows) * STREAMS / lanes
    while high - low > CLOSE_ENOUGH * high:
        middle = (low + high) / 2
        found = solve(limits.within(middle), count)
        if found is not None and in_all(problem, found, rows) < in_all(problem, best, rows):
            best = found
        if found is not None and found.seconds <= lanes * middle:
            high = middle
        else:
            low = middle
    return Solution(best, (in_all(problem, best, rows),), rows)


def in_all(problem: Problem, ring: Ring, rows: Rows) -> float:
    """Seconds of a token where many answers are under way."""
    machines = [problem.machines[node] for node in ring.nodes]
    return seconds_in_all(stage_seconds(ring, rows), [problem.waits(ring.nodes)], machines)


# --- what they share -----------------------------------------------------------------------------------------


def _solving(problem: Problem, rows: Rows, named: Sequence[int] | None, *, quick: bool = False) -> Solve:
    """Ask a search, or for named nodes the division alone."""

    def solve(limits: Limits, machines: int | None) -> Ring | None:
        if named is not None:
            return divided(problem, rows, limits, named)
        return Search(problem, rows, limits, machines, quick=quick).best()

    return solve


def _fitting(problem: Problem, rows: Rows, limits: Limits, named: Sequence[int]) -> Sequence[int] | None:
    """Named nodes in their order, without those that are too small; None where they do not suffice."""
    able = [node for node in named if limits.holds_any(node)]
    leaving = sorted(able, key=lambda node: problem.free[node])
    left = set(leaving[max(0, len(leaving) - problem.last) :])
    for small in leaving:
        order = [node for node in able if node in left]
        if divided(problem, rows, limits, order) is not None:
            return order
        left.discard(small)
        if not left:
            break
    at, taken = 0, []
    for node in able:  # the farther a node begins the farther it gets: whoever gets on is taken
        if limits.of(node)[at] > at:
            at = limits.of(node)[at]
            taken.append(node)
    return taken if at == problem.last else None


def _evened(
    problem: Problem, ring: Ring, rows: Rows, limits: Limits, value: Callable[[Ring], float], *, by_memory: bool = False
) -> Ring:
    """The most even division of the same nodes that is hardly worse.

    Args:
        value: of a ring, what the aim wants little of.
        by_memory: even in what share of its memory each gives, instead of in time.
    """
    agents = [limits.of(node) for node in ring.nodes]

    def cost(place: int) -> Callable[[int, int], float]:
        node, row = ring.nodes[place], rows[ring.nodes[place]]
        reach, memory, free = agents[place], problem.memory, max(1, problem.free[node])
        if by_memory:
            return lambda start, end: memory[start][end] / free if end <= reach[start] else INFINITE
        return lambda start, end: row[end] - row[start] + row[0] if end <= reach[start] else INFINITE

    ranges = partition(problem.last, range(1, problem.last), [cost(place) for place in range(len(ring.nodes))])
    if ranges is None:
        return ring
    boundaries = (0, *(end for _, end in ranges))
    even = Ring(ring.nodes, boundaries, 0.0)
    even = Ring(ring.nodes, boundaries, one_token(problem, even, rows))
    most = value(ring) * (1 + EVEN)
    if value(even) <= most or by_memory:
        return even if value(even) <= most else ring
    low, high = max(stage_seconds(even, rows)), max(stage_seconds(ring, rows))
    for _ in range(6):
        middle = (low + high) / 2
        found = divided(problem, rows, limits.within(middle), ring.nodes)
        if found is not None and value(found) <= most:
            ring, high = found, middle
        else:
            low = middle
    return ring
