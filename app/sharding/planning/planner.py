"""The planner: nodes, their order in the ring and the boundaries between them, for one of the aims. Pure.

What it wants little of are the seconds of `sharding/prediction.py`, over links as they were measured. Where nothing was
measured it assumes what the prediction assumes, and a node that has not measured itself counts as the usual one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from app.errors import PlacementError
from app.models.description import ModelDescription
from app.registry.records import LinkRecord
from app.serving import Serving
from app.sharding.capacity import NodeCapacity
from app.sharding.correction import NOTHING_LEARNED, Corrections
from app.sharding.placement import PlacedStage, Placement, Reason, place_ranges, shortage
from app.sharding.plan import partition
from app.sharding.planning.aiming import Solution, solved
from app.sharding.planning.aims import DEFAULT_AIM, check_aim
from app.sharding.planning.problem import Offer, Problem
from app.sharding.planning.reasons import reasons, remark
from app.sharding.stage_sizes import StageSizes, check_serving


def plan(
    description: ModelDescription,
    serving: Serving,
    offers: Sequence[Offer],
    links: Sequence[LinkRecord],
    aim: str = DEFAULT_AIM,
    *,
    named: bool = False,
    away: Sequence[Reason] = (),
    corrections: Corrections = NOTHING_LEARNED,
) -> Placement:
    """Place a model.

    Args:
        offers: the nodes that may be used.
        links: what was measured between them, the newest first.
        aim: one of `AIMS`.
        named: somebody chose the nodes: all of them are used, in this order, but for those that are too small.
        away: of nodes that cannot be used now, why.
        corrections: what earlier runs have taught of nodes and ways.

    Raises:
        PlacementError: nothing fits; the text says which node lacks how much.
        BadInput, PlacementError: as `check_serving` and `check_aim`.
    """
    check_aim(aim)
    if not offers:
        raise PlacementError("There is no node to place the model on.", "Add a node, or start agents on this machine.")
    check_serving(description, serving)
    found: list[tuple[Solution, Problem]] = []
    for group in [list(offers)] if named else _reachable(offers):
        problem = Problem(description, serving, group, links, corrections)
        solution = solved(problem, aim, range(len(group)) if named else None)
        if solution is not None:
            found.append((solution, problem))
    if not found:
        raise PlacementError(
            f"'{description.name}' does not fit. " + _lacks(description, serving, [each.capacity for each in offers]),
            "Free memory on these nodes, add a node, take a smaller dtype, or set aside fewer KV tokens.",
        )
    solution, problem = min(found, key=lambda each: each[0].value)
    ring = solution.ring
    ends = [problem.boundaries[each] for each in ring.boundaries]
    chosen = [problem.offers[node].capacity for node in ring.nodes]
    placed = place_ranges(description, chosen, list(pairwise(ends)), serving)
    used = {node.node_id for node in chosen}
    told = (*reasons(problem, solution, aim, named=named), *_elsewhere(offers, problem), *away)
    return Placement(
        description.name,
        serving,
        placed.stages,
        tuple(offer.capacity for offer in offers if offer.capacity.node_id not in used),
        aim=aim,
        reasons=told,
        remark=remark(problem, solution, aim, named=named),
    )


def _reachable(offers: Sequence[Offer]) -> list[list[Offer]]:
    """Those that can call each other: agents known by a loopback address can be called from their own machine alone."""
    groups = ([each for each in offers if each.record.is_loopback is inside] for inside in (False, True))
    return [group for group in groups if group]


def _elsewhere(offers: Sequence[Offer], problem: Problem) -> list[Reason]:
    """Of nodes that those which take the model cannot reach."""
    here = {offer.capacity.node_id for offer in problem.offers}
    text = "is left out: it and those that take layers cannot call each other, one being known by a loopback address"
    others = (offer.capacity for offer in offers if offer.capacity.node_id not in here)
    return [Reason(node.node_id, node.name, text) for node in others]


def _lacks(description: ModelDescription, serving: Serving, nodes: Sequence[NodeCapacity]) -> str:
    """The division that comes closest to fitting, and what it lacks where."""
    sizes = StageSizes(description, serving)
    usable = min(len(nodes), len(description.cuts) + 1)
    largest = sorted(nodes, key=lambda node: -node.free_memory)[:usable]
    chosen = [node for node in nodes if node in largest][:usable]
    costs = [
        (lambda start, end, free=node.free_memory: float(max(1, sizes.memory(start, end) - free))) for node in chosen
    ]
    ranges = partition(description.num_layers, description.cuts, costs)
    assert ranges is not None  # every cost is finite and there are enough boundaries
    stages: list[PlacedStage] = list(place_ranges(description, chosen, ranges, serving).stages)
    return shortage(stages)
