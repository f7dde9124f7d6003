"""Where models could go: what nodes have free now, what is planned over them, and what is predicted of that."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from app.cluster.node_state import unavailable
from app.cluster.nodes import NodeDirectory
from app.errors import NodeError
from app.models.description import ModelDescription
from app.registry import ComparisonRecord, LinkRecord, NodeRecord, Registry
from app.runs.trace import Foreseen
from app.serving import Serving
from app.sharding.capacity import KnownNode, NodeCapacity, node_capacities
from app.sharding.correction import Corrections
from app.sharding.foresight import foreseen, foretell, link_speeds
from app.sharding.placement import Placement, check_fits, place_ranges
from app.sharding.plan import Range, parse_layers
from app.sharding.planning.aims import DEFAULT_AIM, check_aim
from app.sharding.planning.problem import Offer, Problem
from app.sharding.planning.question import Candidate, Question
from app.sharding.prediction import PROMPT_TOKENS
from app.sharding.relocation import LostStage, MoveCosts, relocate
from worker_agent.wire.messages import Health, HealthReport

CONNECT_SECONDS = 10.0


class Placing:
    """Asks the nodes of one registry. Belongs to the controller's loop."""

    def __init__(self, registry: Registry, nodes: NodeDirectory) -> None:
        self._registry, self._nodes = registry, nodes

    async def plan(
        self,
        description: ModelDescription,
        serving: Serving,
        *,
        node_ids: Sequence[int] | None = None,
        layers: str | None = None,
        aim: str = DEFAULT_AIM,
    ) -> Placement:
        """Where the layers would go; nothing happens yet. Raises PlacementError, BadInput, NodeError.

        Args:
            node_ids: the nodes to use, in this order; None leaves them to the planner.
            layers: as the user wrote them; None leaves them to the planner.
            aim: what the planner is to aim at.
        """
        check_aim(aim)
        capacities = await self.capacities(node_ids, serving.dtype)
        if layers is not None:
            ranges = parse_layers(layers, description)
            chosen = capacities[: len(ranges)] if node_ids is None else capacities
            placement = place_ranges(description, chosen, ranges, serving)
            check_fits(placement)
        else:
            placement = await self.plan_over(description, serving, capacities, aim, named=node_ids is not None)
        return await self.foretold(description, placement)

    async def plan_over(
        self,
        description: ModelDescription,
        serving: Serving,
        capacities: Sequence[NodeCapacity],
        aim: str = DEFAULT_AIM,
        *,
        named: bool = False,
    ) -> Placement:
        """The planner's choice of these nodes, over links as they were measured. Raises PlacementError, BadInput."""
        every, links, comparisons = await self._registry.call(partial(_known, serving))
        records, trips = {node.id: node for node in every}, self._nodes.health.round_trips()
        # As they were given: an order where somebody named them, and a node that is named twice takes two stages.
        candidates = [
            Candidate(records[each.node_id], each, trips.get(each.node_id))
            for each in capacities
            if each.node_id in records
        ]
        there = {each.record.id for each in candidates}
        candidates += [Candidate(node, None, None, self._away(node)) for node in every if node.id not in there]
        asked = Question(description, serving, candidates, links, comparisons, aim, named)
        # Of hundreds of nodes this takes most of a second, in which the loop has other things to do.
        return await asyncio.to_thread(asked.answered)

    async def relocated(
        self,
        description: ModelDescription,
        serving: Serving,
        ranges: Sequence[Range],
        there: Mapping[int, int],
        lost: Sequence[LostStage],
        nodes: Sequence[NodeCapacity],
        held: Mapping[tuple[int, int], int] | None = None,
    ) -> dict[int, int] | None:
        """As `relocate`, by the speeds of nodes and links as they were measured.

        Args:
            ranges: of all stages.
            there: the nodes of those that stay, by stage.
        """
        every, links, comparisons = await self._registry.call(partial(_known, serving))
        trips, free = self._nodes.health.round_trips(), {node.node_id: node for node in nodes}
        offers = [
            Offer(free.get(node.id) or NodeCapacity(node.id, node.hostname, 0), node, trips.get(node.id))
            for node in every
            if node.id in free or node.id in there.values()
        ]
        costs = MoveCosts(Problem(description, serving, offers, links, Corrections(comparisons)), ranges, there)
        return relocate(lost, nodes, held, costs.seconds)

    def _away(self, node: NodeRecord) -> str:
        return unavailable(self._nodes.state(node), self._nodes.heard(node.id).reason) or "did not answer in time"

    async def foretold(self, description: ModelDescription, placement: Placement) -> Placement:
        """The same, with what is predicted of it now."""
        stages = [(stage.start, stage.end, stage.node.node_id) for stage in placement.stages]
        return replace(placement, foreseen=await self.foretell(description, placement.serving, stages))

    async def foretell(
        self,
        description: ModelDescription,
        serving: Serving,
        stages: Sequence[tuple[int, int, int]],
        prompt_tokens: int = PROMPT_TOKENS,
    ) -> Foreseen | None:
        """What is predicted of one answer alone; None where a node has not measured itself.

        Args:
            stages: `(start, end, node's id)` in pipeline order.
        """

        def work(known: Registry) -> Foreseen | None:
            every = {node.id: node for node in known.nodes.list()}
            if any(node not in every for _, _, node in stages):
                return None
            placed = [(start, end, every[node]) for start, end, node in stages]
            prediction = foretell(
                description,
                serving,
                placed,
                round_trips=self._nodes.health.round_trips(),
                links=link_speeds(known.links.list()),
                corrections=Corrections(_comparisons(known, serving, {node for _, _, node in stages})),
                prompt_tokens=prompt_tokens,
            )
            return None if prediction is None else foreseen(prediction, [node for _, _, node in placed], serving)

        return await self._registry.call(work)

    async def capacities(self, node_ids: Sequence[int] | None = None, dtype: str | None = None) -> list[NodeCapacity]:
        """What these nodes (all active ones when None) have free now, and how fast they are in a compute dtype.

        Without a dtype they count as equally fast. Raises NodeError for a named one that is away.
        """
        if node_ids is None:
            every = await self._registry.call(lambda known: known.nodes.list())
            records = [each for each in every if not each.draining and not self._nodes.health.yields(each.id)]
        else:
            records = await self._registry.call(lambda known: [known.nodes.get(node) for node in node_ids])
        found = await asyncio.gather(*(self._ask(record) for record in records), return_exceptions=True)
        reports: dict[int, HealthReport] = {}
        for record, each in zip(records, found, strict=True):
            if isinstance(each, HealthReport):
                reports[record.id] = each
            elif node_ids is not None or not isinstance(each, NodeError):
                raise each
        known = [KnownNode(record, reports[record.id]) for record in records if record.id in reports]
        return node_capacities(known, dtype)

    async def _ask(self, record: NodeRecord) -> HealthReport:
        link = self._nodes.link(record.id)
        await link.connect(CONNECT_SECONDS)
        return await link.call(Health(call=0))


def _known(serving: Serving, registry: Registry) -> tuple[list[NodeRecord], list[LinkRecord], list[ComparisonRecord]]:
    return registry.nodes.list(), registry.links.list(), _comparisons(registry, serving)


def _comparisons(registry: Registry, serving: Serving, nodes: Collection[int] | None = None) -> list[ComparisonRecord]:
    """What earlier runs in the same numbers teach: every request asks for it, so no more is read."""
    return registry.comparisons.list(nodes, dtype=serving.dtype, quantize=serving.quantize)
