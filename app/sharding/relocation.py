"""Where the layers of a lost stage go: to the node that held them if it is there again, else to one with room.

Pure: who is there, what they have free and what lies on their disks comes in; who takes which stage comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.sharding.capacity import ALIKE, NodeCapacity


@dataclass(frozen=True)
class LostStage:
    """A stage that no agent holds any more."""

    stage: int
    memory: int
    """Bytes of weights and KV that it takes."""
    node_id: int
    """Where it was."""


def relocate(
    lost: Sequence[LostStage], nodes: Sequence[NodeCapacity], held: Mapping[tuple[int, int], int] | None = None
) -> dict[int, int] | None:
    """A node for each lost stage; None where no choice of nodes has room for all of them.

    The node that had it comes first, if it is among `nodes`: its disk has the weights, and its owner chose it. Else the
    fastest with room; of those that are about as fast the one whose disk has most of the weights, then the one with
    most memory left. The largest stage chooses first; what then leaves no room for another is given up again.

    Args:
        nodes: those that are there, with what they have free now.
        held: by node and stage, how many bytes of its weights lie on the node's disk already.

    Returns:
        the node's id by stage.
    """
    order = sorted(lost, key=lambda each: (-each.memory, each.stage))
    return _assign(order, {node.node_id: node for node in nodes}, held or {})


def _assign(
    lost: Sequence[LostStage], nodes: Mapping[int, NodeCapacity], held: Mapping[tuple[int, int], int]
) -> dict[int, int] | None:
    if not lost:
        return {}
    stage, rest = lost[0], lost[1:]
    fitting = [node for node in nodes.values() if node.free_memory >= stage.memory]
    fastest = max((node.speed for node in fitting), default=0.0)

    def preference(node: NodeCapacity) -> tuple[bool, bool, int, float, int]:
        alike = node.speed * (1 + ALIKE) >= fastest
        on_disk = held.get((node.node_id, stage.stage), 0) if alike else 0
        return node.node_id != stage.node_id, not alike, -on_disk, -node.speed if not alike else 0.0, -node.free_memory

    for node in sorted(fitting, key=preference):
        left = replace(node, free_memory=node.free_memory - stage.memory)
        found = _assign(rest, {**nodes, node.node_id: left}, held)
        if found is not None:
            return {stage.stage: node.node_id, **found}
    return None
