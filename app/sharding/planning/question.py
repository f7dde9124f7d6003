"""What the planner is asked: by `plan`, `deploy` and HTTP, by a recovery and by the board, all in one way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.models.description import ModelDescription
from app.registry.records import ComparisonRecord, LinkRecord, NodeRecord
from app.serving import Serving
from app.sharding.capacity import NodeCapacity
from app.sharding.correction import Corrections
from app.sharding.placement import Placement, Reason
from app.sharding.planning.planner import plan
from app.sharding.planning.problem import Offer


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that the planner is told of."""

    record: NodeRecord
    capacity: NodeCapacity | None
    """What it has to offer; None where it takes no layers now."""
    round_trip: float | None = None
    """From the controller and back, seconds, where that is known."""
    away: str = ""
    """Why it takes none, as the rest of a sentence that begins with *it*."""


@dataclass(frozen=True)
class Question:
    """All that the planner has to know, as it is now: it may be asked in any thread."""

    description: ModelDescription
    serving: Serving
    candidates: Sequence[Candidate]
    links: Sequence[LinkRecord]
    """What was measured between nodes, and `comparisons` what earlier runs teach; both the newest first."""
    comparisons: Sequence[ComparisonRecord]
    aim: str
    named: bool = False
    """Somebody chose the nodes."""

    def answered(self) -> Placement:
        """The plan. Raises as `plan` does."""
        return plan(
            self.description,
            self.serving,
            [Offer(each.capacity, each.record, each.round_trip) for each in self.candidates if each.capacity],
            self.links,
            self.aim,
            named=self.named,
            away=() if self.named else tuple(_away(each for each in self.candidates if each.capacity is None)),
            corrections=Corrections(self.comparisons),
        )


def _away(candidates: Iterable[Candidate]) -> Iterable[Reason]:
    for each in candidates:
        yield Reason(each.record.id, each.record.hostname, f"is left out: it {each.away}")
