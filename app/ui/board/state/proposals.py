"""What the planner makes of a draft, and what it says of it as long as the draft is left so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.models.description import ModelDescription
from app.registry.records import LinkRecord
from app.serving import Serving
from app.sharding.arrangement import Arrangement
from app.sharding.placement import Placement, Reason
from app.sharding.planning.planner import plan
from app.sharding.planning.problem import Offer
from app.ui.board.state.lanes import unavailable_because
from app.ui.board.state.memory import BoardMemory
from app.ui.cluster import Cluster

AT_ONCE = 4
"""Over so many nodes a plan is made while the window waits, which takes some hundredths of a second."""


@dataclass(frozen=True)
class Question:
    """All that the planner has to know, as it is now: it may be asked in any thread."""

    description: ModelDescription
    serving: Serving
    offers: Sequence[Offer]
    links: Sequence[LinkRecord]
    aim: str
    away: Sequence[Reason]

    @property
    def is_quick(self) -> bool:
        return len(self.offers) <= AT_ONCE

    def answered(self) -> Placement:
        """The plan. Raises PlacementError when nothing fits."""
        return plan(self.description, self.serving, self.offers, self.links, self.aim, away=self.away)


class Proposals:
    """Remembers for each model the last plan that was proposed."""

    def __init__(self, cluster: Cluster, memory: BoardMemory) -> None:
        self._cluster, self._memory = cluster, memory
        self._made: dict[str, tuple[Arrangement, Placement]] = {}

    def asked(self, draft: Arrangement, aim: str) -> Question:
        """The question that a draft is to the planner."""
        capacities = self._memory.capacities(draft.model_name, draft.serving.dtype)
        views = self._cluster.nodes
        return Question(
            draft.description,
            draft.serving,
            [Offer(capacity, views[node].record, views[node].rtt) for node, capacity in capacities.items()],
            self._cluster.links,
            aim,
            [
                Reason(view.id, view.name, f"is left out: it {unavailable_because(view)}")
                for view in views.values()
                if view.id not in capacities
            ],
        )

    def keep(self, draft: Arrangement, placement: Placement) -> None:
        """This draft is that plan."""
        self._made[draft.model_name] = draft, placement

    def of(self, draft: Arrangement | None) -> Placement | None:
        """The plan that a draft is; None for one that was changed by hand, or never proposed."""
        if draft is None or draft.model_name not in self._made:
            return None
        made, placement = self._made[draft.model_name]
        return placement if (made.pieces, made.serving) == (draft.pieces, draft.serving) else None
