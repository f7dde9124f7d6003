"""Where the layers of a recorded plan go among the nodes at hand. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from app.errors import PlacementError
from app.registry import NodeRecord
from app.runs.trace import Plan


def layers_text(plan: Plan) -> str:
    """The plan's ranges as `--layers` takes them."""
    return ",".join(f"{stage.start}-{stage.end - 1}" for stage in plan.stages)


def nodes_for(plan: Plan, nodes: Sequence[NodeRecord]) -> list[int]:
    """A node for each stage: the one that had it, by name, where it is here and free; else the next one.

    Raises PlacementError when there are fewer nodes than stages.
    """
    at_hand = [node for node in nodes if node.is_active and not node.draining]
    if len(at_hand) < len(plan.stages):
        raise PlacementError(
            f"The plan has {len(plan.stages)} stages, and {len(at_hand)} nodes are at hand.",
            "Start more agents, or deploy the model as it fits and replay without --deploy.",
        )
    chosen: list[NodeRecord | None] = []
    for stage in plan.stages:
        alike = [node for node in at_hand if node not in chosen and node.hostname == stage.node]
        chosen.append(next((node for node in alike if node.id == stage.node_id), alike[0] if alike else None))
    free = iter(node for node in at_hand if node not in chosen)
    return [(node or next(free)).id for node in chosen]
