"""The figures of one plan, made ready to be asked for often: seconds, memory and ways of every node that is offered.

A boundary is called here by its number among those that are allowed: 0 before the first layer, `last` behind the last.
Nodes are called by their place among the offers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from app.models.description import ModelDescription
from app.registry.records import LinkRecord, NodeRecord
from app.serving import Serving
from app.sharding.capacity import NodeCapacity
from app.sharding.correction import NOTHING_LEARNED, Corrections
from app.sharding.foresight import dead_links, link_speeds
from app.sharding.prediction import NodeSpeed, StageCosts, StepLoad, hop_seconds, speed_of
from app.sharding.stage_sizes import StageSizes

INFINITE = float("inf")
USUAL_SPEED = NodeSpeed(read_bytes_per_second=10e9, flops_per_second=100e9)
"""Of a processor of these years, where no node has measured itself."""
DEAD_SECONDS = 5.0
"""What it counts to go over a link that did not work when it was last measured: it is the last that is taken."""
ANSWER_TOKENS = 256
"""Of a usual answer, over which the way from the controller and back, once an answer, is spread."""

Rows = list[list[float]]
"""By node and boundary: seconds of the layers before it, and of the stage itself. A stage from a to b takes
`row[b] - row[a] + row[0]`."""


@dataclass(frozen=True)
class Offer:
    """A node that may take layers."""

    capacity: NodeCapacity
    record: NodeRecord
    round_trip: float | None = None
    """From the controller and back, seconds, where that is known."""


class Problem:
    """What is to be placed, and on what.

    Args:
        links: the newest measurement of each direction first.
        corrections: what earlier runs have taught.
    """

    def __init__(
        self,
        description: ModelDescription,
        serving: Serving,
        offers: Sequence[Offer],
        links: Sequence[LinkRecord],
        corrections: Corrections = NOTHING_LEARNED,
    ) -> None:
        self.description, self.serving, self.offers = description, serving, tuple(offers)
        self.boundaries = (0, *description.cuts, description.num_layers)
        self.last = len(self.boundaries) - 1
        self.machines = [offer.record.machine for offer in offers]
        self.sizes = StageSizes(description, serving)
        self.memory = [
            [self.sizes.memory(start, end) if end > start else 0 for end in self.boundaries]
            for start in self.boundaries
        ]
        """Bytes of the stage from one boundary to another."""
        self._reaches: dict[tuple[int, float], list[int]] = {}
        self.free = [offer.capacity.free_memory for offer in offers]
        self.speeds, self.guessed = _speeds(offers, description.name, serving, corrections)
        """How fast each is, and which of them were guessed."""
        self._corrections = corrections
        self._costs = StageCosts(description, serving.dtype, serving.quantize)
        self._works = [self._costs.work(0, boundary) for boundary in self.boundaries]
        self.dead = dead_links(links)
        """Ids of nodes from and to which a link did not work."""
        self.hops = self._measure_hops(links)
        """By the nodes from and to which a token goes: seconds."""
        self.hops_to = [list(column) for column in zip(*self.hops, strict=True)]
        """The same by the nodes to and from which it goes."""
        self.ways = [max(0.0, offer.round_trip or 0.0) / 2 / ANSWER_TOKENS for offer in offers]
        """Of the way between the controller and each node, what falls on a token."""

    def token_rows(self) -> Rows:
        """For a step of one token."""
        return self._rows([self._costs.token_load(work) for work in self._works])

    def step_rows(self, rows: float) -> Rows:
        """For a step of so many sequences."""
        return self._rows([self._costs.step_load(work, rows) for work in self._works])

    def _rows(self, loads: Sequence[StepLoad]) -> Rows:
        # `StepLoad.on`, for hundreds of nodes and boundaries at once.
        figures = [(load.read_bytes, load.flops, load.seconds) for load in loads]
        rates = [(each.read_bytes_per_second, each.flops_per_second, each.token_factor) for each in self.speeds]
        return [
            [(read / reads + flops / computes + fixed) * factor for read, flops, fixed in figures]
            for reads, computes, factor in rates
        ]

    def closing(self, last: int, first: int) -> float:
        """From the last node to the first, and what the controller's ways to them count; seconds for a token."""
        return (self.hops[last][first] if last != first else 0.0) + self.ways[last] + self.ways[first]

    def waits(self, order: Sequence[int]) -> float:
        """All ways of a ring of these nodes."""
        if len(order) == 1:
            return self.closing(order[0], order[0])
        hops = self.hops
        passed = sum([hops[one][other] for one, other in pairwise(order)])
        return passed + self.hops[order[-1]][order[0]] + self.ways[order[-1]] + self.ways[order[0]]

    def reach(self, node: int, share: float = 1.0) -> list[int]:
        """For each boundary the farthest one up to which a node can hold all layers, in a share of its memory."""
        known = self._reaches.get((node, share))
        if known is None:
            known = self._reaches[node, share] = self._reach(self.free[node] * share)
        return known

    def farthest(self, node: int, start: int, share: float = 1.0) -> int:
        """One boundary's `reach`, where few are asked for."""
        return max(start, bisect_right(self.memory[start], self.free[node] * share) - 1)

    def reach_within(self, row: Sequence[float], seconds: float, reach: Sequence[int]) -> list[int]:
        """The same, for a node that must not take longer than so many seconds either."""
        reached, end = [], 0
        for start in range(self.last + 1):
            end = max(end, start)
            while end < reach[start] and row[end + 1] - row[start] + row[0] <= seconds:
                end += 1
            reached.append(min(end, reach[start]))
        return reached

    def farthest_within(self, row: Sequence[float], seconds: float, start: int, most: int) -> int:
        """One boundary's `reach_within`, where few are asked for; memory lets the node get to `most`."""
        end = max(start, min(most, bisect_right(row, seconds - row[0] + row[start], start) - 1))
        # To the last bit as it is reckoned elsewhere: a ring's slowest stage is exactly as long as its limit.
        while end > start and row[end] - row[start] + row[0] > seconds:
            end -= 1
        while end < most and row[end + 1] - row[start] + row[0] <= seconds:
            end += 1
        return end

    def _reach(self, free: float) -> list[int]:
        # What a stage takes grows with its end, and the farther it begins the less it takes up to the same end.
        reached, end = [], 0
        for start, row in enumerate(self.memory):
            end = max(end, start)
            while end < self.last and row[end + 1] <= free:
                end += 1
            reached.append(end)
        return reached

    def _measure_hops(self, links: Sequence[LinkRecord]) -> list[list[float]]:
        known = link_speeds(links)
        # Of an unmeasured way between machines the end that is farther from the controller tells.
        alone = [hop_seconds(speed, speed, False, None) for speed in self.speeds]
        hops = [[max(one, other) for other in alone] for one in alone]
        places = {offer.record.id: place for place, offer in enumerate(self.offers)}
        together: dict[str, list[int]] = {}
        for place, machine in enumerate(self.machines):
            together.setdefault(machine, []).append(place)
        for one, machine in enumerate(self.machines):
            for other in together[machine]:
                hops[one][other] = hop_seconds(self.speeds[one], self.speeds[other], True, None)
        for (source, target), link in known.items():
            if source in places and target in places:
                one, other = places[source], places[target]
                same = self.machines[one] == self.machines[other]
                hops[one][other] = hop_seconds(self.speeds[one], self.speeds[other], same, link)
        numbers = self.serving.dtype, self.serving.quantize
        for source, target in self._corrections.ways(*numbers):
            if source in places and target in places:
                factor = self._corrections.of_way(source, target, *numbers, known.get((source, target))).factor
                hops[places[source]][places[target]] *= factor
        for source, target in self.dead:
            if source in places and target in places:
                hops[places[source]][places[target]] += DEAD_SECONDS
        return hops


def _speeds(
    offers: Sequence[Offer], model: str, serving: Serving, corrections: Corrections
) -> tuple[list[NodeSpeed], frozenset[int]]:
    """How fast each node is, and those of which that had to be guessed.

    Agents of one machine have the same cores, so each is as fast as the fastest of them has measured, and what earlier
    runs have taught of one holds for all; where none has measured, as the median of all that have. So is what was
    learned of machines for those of which nothing was.
    """
    measured: dict[str, list[NodeSpeed]] = {}
    learned: dict[str, list[float]] = {}
    for offer in offers:
        speed = speed_of(offer.record.capacities, serving.dtype, offer.round_trip)
        if speed is not None:
            measured.setdefault(offer.record.machine, []).append(speed)
            found = corrections.of_node(offer.record.id, model, serving.dtype, serving.quantize, speed).token
            if found.runs:
                learned.setdefault(offer.record.machine, []).append(found.factor)
    best = {
        machine: (max(s.read_bytes_per_second for s in speeds), max(s.flops_per_second for s in speeds))
        for machine, speeds in measured.items()
    }
    if best:
        usual = median(read for read, _ in best.values()), median(flops for _, flops in best.values())
    else:
        usual = USUAL_SPEED.read_bytes_per_second, USUAL_SPEED.flops_per_second
    factors = {machine: fmean(found) for machine, found in learned.items()}
    # What the formulas miss, they miss of others as well: a machine is not preferred for never having been used.
    usually = median(factors.values()) if factors else 1.0
    speeds = [
        NodeSpeed(
            *best.get(offer.record.machine, usual),
            max(0.0, offer.round_trip or 0.0),
            token_factor=factors.get(offer.record.machine, usually),
        )
        for offer in offers
    ]
    return speeds, frozenset(k for k, offer in enumerate(offers) if offer.record.machine not in best)
