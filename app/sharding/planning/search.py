"""Which nodes, and in which order: of few all orders are tried, of many those that local search comes by.

Both ask `division.py` for the best boundaries of an order. What is sought is the least time of a step's whole round,
within limits of memory and time and perhaps on a given number of machines; the aims are made of such searches
(`planner.py`). Nothing here depends on a clock, and chance begins alike each time: the same figures give the same plan.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from operator import add

from app.sharding.planning.covering import covering
from app.sharding.planning.division import Front, Limits, Ring, agents_of, begun, divided, extended, fronts, rears
from app.sharding.planning.problem import INFINITE, Problem, Rows

FEW = 6
"""So many nodes are tried in all orders."""
SEEDS = 24
"""Nodes from which rings are grown."""
STARTS = 4
"""Of these rings so many are improved."""
TRIES = 28
"""Changes of a ring that are worked out, the most promising first, before it is left as it is."""
MOST_STAGES = 12_000
"""Stages of the rings that are worked out while some are improved, which bounds the time of a search."""
FEW_STAGES = 1_000
"""The same for a quick one."""
KICKS = 12
"""So often the best ring is changed in several places at once without coming to a better one."""
CLOSE = 10
"""A ring of so many nodes is tried in all orders that differ in one place; of a longer one those with shorter ways."""


_Best = tuple[float, tuple[int, ...] | None]
"""Seconds, and the order of nodes; infinite and None where none was found."""


@dataclass(frozen=True)
class Change:
    """A ring that might be better."""

    promise: float
    """By how much it would be slower, guessed: negative for a better one."""
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class _Base:
    """A ring that is being improved, worked out from both ends."""

    nodes: tuple[int, ...]
    fronts: list[Front]
    rears: list[list[float]]


class Search:
    """One search for the least time.

    Args:
        rows: what stages take.
        machines: on exactly so many; None for any number.
        quick: be content with what is found soon, even of few nodes.
        stages: how many are worked out while rings are improved, which bounds the time; None for the usual number.
        enough: a ring that takes no longer is not improved any more.
    """

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        limits: Limits,
        machines: int | None = None,
        *,
        quick: bool = False,
        stages: int | None = None,
        enough: float = 0.0,
    ) -> None:
        self.problem, self.rows, self.limits, self.machines = problem, rows, limits, machines
        self._last = problem.last
        count = len(problem.offers)
        middle = self._last // 2
        # How many boundaries a node gets on with where the model is neither at its beginning nor at its end.
        self._room = [limits.farthest(node, middle) - middle or int(limits.holds_any(node)) for node in range(count)]
        self._rate = [
            (row[middle] - row[0]) / middle if middle else row[self._last] - row[0] for row in rows
        ]  # fmt: skip
        self._stage = [row[0] for row in rows]
        self._usable = [node for node in range(count) if self._room[node] > 0]
        self._quick, self._enough = quick, enough
        self._left = stages or (FEW_STAGES if quick else MOST_STAGES)
        self._base = _Base((), [], [])
        self._apart = limits.seconds == INFINITE or len(set(problem.machines)) == count
        """Whether how far a node gets is the same whoever else is in the ring."""

    def best(self, starts: Iterable[Sequence[int]] = ()) -> Ring | None:
        """The fastest ring, or the fastest that was found; None where none was.

        Args:
            starts: rings to begin with besides those that are grown here; ignored where all orders are tried.
        """
        if (self.machines or 1) > len({self.problem.machines[node] for node in self._usable}):
            return None
        few = len(self._usable) <= FEW and not self._quick
        order = (self._of_few() if few else self._of_many(starts))[1]
        return None if order is None else self.ring(order)

    def stand_on(self, nodes: tuple[int, ...]) -> None:
        """Rings like this one, which has to fit, are asked for next: what they have in common is worked out once."""
        if self._apart:
            made = fronts(self.problem, self.rows, self.limits, nodes)
            self._base = _Base(nodes, made, rears(self.problem, self.rows, self.limits, nodes))

    def ring(self, nodes: Sequence[int]) -> Ring | None:
        """The best division of an order; None where it does not fit."""
        return divided(self.problem, self.rows, self.limits, nodes)

    def cost(self, nodes: Sequence[int]) -> float:
        """Seconds of the best division of an order; infinite where it does not fit."""
        if self.machines is not None and len({self.problem.machines[node] for node in nodes}) != self.machines:
            return INFINITE
        return self._divided(nodes) + self.problem.waits(nodes)

    def _divided(self, nodes: Sequence[int]) -> float:
        """What the stages take; of a ring that differs from the base in its middle, the middle alone is worked out."""
        base, last = self._base, self._last
        most, head = min(len(base.nodes), len(nodes)), 0
        while head < most and base.nodes[head] == nodes[head]:
            head += 1
        tail = 0
        while tail < most - head and base.nodes[-1 - tail] == nodes[-1 - tail]:
            tail += 1
        middle = nodes[: len(nodes) - tail]
        self._left -= len(middle) - head + 1
        if not middle:
            return base.rears[len(base.nodes) - tail][0]
        made = fronts(self.problem, self.rows, self.limits, middle, base.fronts[:head])
        if len(made) < len(middle):
            return INFINITE
        if not tail:
            return made[-1].at(last)
        first, seconds = made[-1]
        return min(map(add, seconds, base.rears[len(base.nodes) - tail][first:]), default=INFINITE)

    # --- few ---------------------------------------------------------------------------------------------

    def _of_few(self) -> _Best:
        """Branch and bound over all orders: exact."""
        problem, rows, last = self.problem, self.rows, self._last
        rest = [min(rows[node][last] - rows[node][at] for node in self._usable) for at in range(last + 1)]
        least = min((hop for row in problem.hops for hop in row), default=0.0)
        best = self._of_many(())  # a good one to begin with: what cannot be better is not followed

        def visit(nodes: tuple[int, ...], front: Front, passed: float) -> None:
            nonlocal best
            agents = agents_of(problem, nodes)
            done = front.at(last)
            if done < INFINITE and (self.machines is None or len(agents) == self.machines):
                if max(agents.values()) > 1 and self.limits.seconds < INFINITE:
                    total = self.cost(nodes)  # earlier nodes of a machine did not know yet how many share it
                else:
                    total = done + passed + problem.closing(nodes[-1], nodes[0])
                if total < best[0]:
                    best = total, nodes
            bound = min(
                (value + rest[at] for at, value in enumerate(front.seconds, front.first) if at < last), default=INFINITE
            )
            if bound + passed + 2 * least >= best[0]:
                return
            here = nodes[-1]
            for node in sorted(self._usable, key=lambda node: problem.hops[here][node]):
                if node in nodes:
                    continue
                machine = problem.machines[node]
                if self.machines is not None and machine not in agents and len(agents) == self.machines:
                    continue
                reach = self.limits.of(node, agents.get(machine, 0) + 1)
                following = extended(front, rows[node], reach, last)
                if following.seconds:
                    visit((*nodes, node), following, passed + problem.hops[here][node])

        for node in sorted(self._usable, key=lambda node: rows[node][last]):
            front = begun(rows[node], self.limits.of(node))
            if front.seconds:
                visit((node,), front, 0.0)
        return best

    # --- many --------------------------------------------------------------------------------------------

    def _of_many(self, starts: Iterable[Sequence[int]]) -> _Best:
        grown = {*self._grown(), *(tuple(start) for start in starts)}
        valued = sorted((cost, nodes) for nodes in grown if (cost := self.cost(nodes)) < INFINITE)
        if not valued and (order := covering(self.problem, self.limits, self._usable)) is not None:
            valued = [(self.cost(order), order)]
        best: _Best = (INFINITE, None)
        chosen: list[tuple[float, tuple[int, ...]]] = []
        for cost, nodes in valued:  # rings of the same nodes end alike
            if all(set(nodes) != set(other) for _, other in chosen):
                chosen.append((cost, nodes))
        for cost, nodes in chosen[: 1 if self._quick else STARTS]:
            best = min(best, self._improved(cost, nodes), key=lambda each: each[0])
        return best if self._quick else self._kicked(best)

    def _kicked(self, best: _Best) -> _Best:
        """Change the best ring in some places at once, and improve what comes of that: another valley may be deeper."""
        if len(self._usable) < 2:
            return best
        chance, failed = random.Random(len(self._usable)), 0
        while best[1] is not None and failed < KICKS and self._left > 0 and best[0] > self._enough:
            nodes = list(best[1])
            for _ in range(2):
                others = [node for node in self._usable if node not in nodes]
                if len(nodes) > 1:
                    gone = nodes.pop(chance.randrange(len(nodes)))
                    others.append(gone)
                nodes.insert(chance.randrange(len(nodes) + 1), chance.choice(others))
            if chance.random() < 0.5 and (others := [node for node in self._usable if node not in nodes]):
                nodes.insert(chance.randrange(len(nodes) + 1), chance.choice(others))
            cost = self.cost(nodes)
            found = self._improved(cost, tuple(nodes)) if cost < INFINITE else best
            best, failed = (found, 0) if found[0] < best[0] * (1 - 1e-9) else (best, failed + 1)
        return best

    def _grown(self) -> Iterator[tuple[int, ...]]:
        """Rings to begin with: single nodes, and what grows from good ones by what a layer costs on the next."""
        if self.machines in (None, 1):
            yield from ((node,) for node in self._usable if self.limits.farthest(node, 0) == self._last)
        by_size = sorted(self._usable, key=lambda node: (-self._room[node], self._rate[node]))
        alone = {node: self._rate[node] + self.rows[node][0] / self._room[node] for node in self._usable}
        by_rate = sorted(self._usable, key=alone.__getitem__)
        many = SEEDS // 4 if self._quick else SEEDS
        spread = by_rate[:: -(-len(by_rate) // (many // 4))]
        for seed in dict.fromkeys((*by_rate[: many // 2], *by_size[: many // 4], *spread)):
            if ring := self.grown_from(seed, greedy=False):
                yield ring
        for seed in by_size[:3]:
            if ring := self.grown_from(seed, greedy=True):
                yield ring
                yield ring[::-1]

    def grown_from(self, seed: int, *, greedy: bool) -> tuple[int, ...] | None:
        """Add nodes until all layers are placed, and as many machines are used as shall be.

        Args:
            greedy: by how far they reach alone, which uses the fewest.
        """
        problem, last = self.problem, self._last
        nodes, machines = [seed], {problem.machines[seed]}
        at = self.limits.farthest(seed, 0)
        wanted = self.machines or 1
        left = [node for node in self._usable if node != seed]
        while at < last or len(machines) < wanted:
            here = nodes[-1]
            options = left
            if self.machines is not None and len(machines) == wanted:
                options = [node for node in left if problem.machines[node] in machines]
            elif at >= last:
                options = [node for node in left if problem.machines[node] not in machines]
            if not options:
                return None
            remaining, rate, room, base = max(1, last - at), self._rate, self._room, self._stage
            if greedy:
                most = max(min(room[node], remaining) for node in options)
                options = [node for node in options if min(room[node], remaining) == most]
            # What each costs a layer, with its ways there and on to the seed. The way back from here is saved by all.
            out, home, back = problem.hops[here], self.problem.hops_to[seed], problem.hops[here][seed]
            merits = [
                rate[node] + (out[node] + home[node] - back + base[node]) / min(room[node], remaining)
                for node in options
            ]
            chosen = options[merits.index(min(merits))]
            nodes.append(chosen)
            machines.add(problem.machines[chosen])
            left.remove(chosen)
            at = max(at, self.limits.farthest(chosen, min(at, last - 1)))
        return tuple(nodes)

    def _improved(self, cost: float, nodes: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        """Take changes as long as they make it faster."""
        found = True
        while found and self._left > 0 and cost > self._enough:
            found = False
            self.stand_on(nodes)
            self._left -= len(nodes) * len(self._usable) // 40  # so many stages take as long as to look for changes
            for change in nsmallest(TRIES, self._changes(nodes, cost), key=lambda change: change.promise):
                value = self.cost(change.nodes)
                if value < cost * (1 - 1e-9):
                    cost, nodes, found = value, change.nodes, True
                    break
        return cost, nodes

    def _changes(self, nodes: tuple[int, ...], cost: float) -> Iterator[Change]:
        hops, count = self.problem.hops, len(nodes)
        unit = cost / self._last
        used = set(nodes)
        # What a node adds besides its ways, less what its layers would cost elsewhere.
        value = {
            node: self._stage[node] + min(self._room[node], self._last) * (self._rate[node] - unit)
            for node in self._usable
        }
        others = [(node, value[node]) for node in self._usable if node not in used]

        def between(one: int, other: int, most: int) -> list[int]:
            """Nodes that promise most between two others."""
            out, on = hops[one], self.problem.hops_to[other]
            return [node for _, node in nsmallest(most, [(out[node] + on[node] + own, node) for node, own in others])]

        for place, node in enumerate(nodes):
            before, after = nodes[place - 1], nodes[(place + 1) % count]
            saved = hops[before][node] + hops[node][after] if count > 1 else 0.0
            short = hops[before][after] if count > 2 else 0.0
            if count > 1:
                yield Change(short - saved - value[node], nodes[:place] + nodes[place + 1 :])
                for other in between(before, after, 4):
                    promise = hops[before][other] + hops[other][after] + value[other] - saved - value[node]
                    yield Change(promise, (*nodes[:place], other, *nodes[place + 1 :]))
            direct = hops[node][after] if count > 1 else 0.0
            for other in between(node, after, 3):
                promise = hops[node][other] + hops[other][after] + value[other] - direct
                yield Change(promise, (*nodes[: place + 1], other, *nodes[place + 1 :]))
        if 1 < count <= CLOSE:
            yield from self._in_any_order(nodes)
        elif count > 1:
            yield from self._with_shorter_ways(nodes)

    def _in_any_order(self, nodes: tuple[int, ...]) -> Iterator[Change]:
        """The same nodes turned, two exchanged, one moved, some of them backwards."""
        count, now = len(nodes), self.problem.waits(nodes)
        made = {nodes[place:] + nodes[:place] for place in range(1, count)}
        for one in range(count):
            for other in range(one + 1, count):
                between = nodes[one + 1 : other]
                head, tail = nodes[:one], nodes[other + 1 :]
                made.add((*head, nodes[other], *between, nodes[one], *tail))
                made.add((*head, nodes[other], *between[::-1], nodes[one], *tail))
                made.add((*head, *between, nodes[other], nodes[one], *tail))
                made.add((*head, nodes[other], nodes[one], *between, *tail))
        yield from (Change(self.problem.waits(each) - now, each) for each in sorted(made - {nodes}))

    def _with_shorter_ways(self, nodes: tuple[int, ...]) -> Iterator[Change]:
        """One node moved, or some passed through backwards, where that shortens the ways; the ring may be turned."""
        hops, count = self.problem.hops, len(nodes)
        yield Change(0.0, nodes[count // 2 :] + nodes[: count // 2])
        yield Change(0.0, nodes[::-1])
        for one in range(count):
            before, node, after = nodes[one - 1], nodes[one], nodes[(one + 1) % count]
            saved = hops[before][node] + hops[node][after] - hops[before][after]
            rest = nodes[:one] + nodes[one + 1 :]
            for place, here in enumerate(rest):
                following = rest[(place + 1) % len(rest)]
                promise = hops[here][node] + hops[node][following] - hops[here][following] - saved
                if promise < 0 and here != before:
                    yield Change(promise, (*rest[: place + 1], node, *rest[place + 1 :]))
            forth = back = 0.0
            for other in range(one + 1, count):
                forth += hops[nodes[other - 1]][nodes[other]]
                back += hops[nodes[other]][nodes[other - 1]]
                behind = nodes[(other + 1) % count]
                if behind == node:
                    continue
                now = hops[before][node] + forth + hops[nodes[other]][behind]
                promise = hops[before][nodes[other]] + back + hops[node][behind] - now
                if promise < 0:
                    yield Change(promise, (*nodes[:one], *nodes[one : other + 1][::-1], *nodes[other + 1 :]))
