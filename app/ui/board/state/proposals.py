"""What the planner makes of a draft, and what it says of it as long as the draft is left so."""

from __future__ import annotations

from app.sharding.arrangement import Arrangement
from app.sharding.placement import Placement
from app.sharding.planning.question import Candidate, Question
from app.ui.board.state.lanes import unavailable_because
from app.ui.board.state.memory import BoardMemory
from app.ui.cluster import Cluster

AT_ONCE = 4
"""Over so many nodes a plan is made while the window waits, which takes some hundredths of a second."""


class Proposals:
    """Remembers for each model the last plan that was proposed."""

    def __init__(self, cluster: Cluster, memory: BoardMemory) -> None:
        self._cluster, self._memory = cluster, memory
        self._made: dict[str, tuple[Arrangement, Placement]] = {}

    def asked(self, draft: Arrangement, aim: str) -> Question:
        """The question that a draft is to the planner."""
        capacities = self._memory.capacities(draft.model_name, draft.serving.dtype)
        candidates = [
            Candidate(view.record, capacities.get(view.id), view.rtt, unavailable_because(view))
            for view in self._cluster.nodes.values()
        ]
        links, comparisons = self._cluster.links, self._cluster.comparisons
        return Question(draft.description, draft.serving, candidates, links, comparisons, aim)

    def keep(self, draft: Arrangement, placement: Placement) -> None:
        """This draft is that plan."""
        self._made[draft.model_name] = draft, placement

    def of(self, draft: Arrangement | None) -> Placement | None:
        """The plan that a draft is; None for one that was changed by hand, or never proposed."""
        if draft is None or draft.model_name not in self._made:
            return None
        made, placement = self._made[draft.model_name]
        return placement if (made.pieces, made.serving) == (draft.pieces, draft.serving) else None
