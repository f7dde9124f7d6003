"""Where the layers of a lost stage go: to the node that held them if it is there again, else to one with room.

Pure: who is there, what they have free, what lies on their disks and how fast nodes and links are comes in; who takes
which stage comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from app.sharding.capacity import ALIKE, NodeCapacity
from app.sharding.plan import Range
from app.sharding.planning.problem import Problem

Cost = Callable[[int, int, Mapping[int, int]], float]
"""What a stage's number, a node's id, and where other lost stages go as far as that is decided, cost of a token."""


@dataclass(frozen=True)
class LostStage:
    """A stage that no agent holds any more."""

    stage: int
    memory: int
    """Bytes of weights and KV that it takes."""
    node_id: int
    """Where it was."""


class MoveCosts:
    """What a stage costs of a token on each node, with the ways from the stage before it and to the one behind it.

    Args:
        ranges: of all stages, in order.
        there: the nodes of those that stay, by stage; they are offered in the problem, too.
    """

    def __init__(self, problem: Problem, ranges: Sequence[Range], there: Mapping[int, int]) -> None:
        self._problem, self._there, self._rows = problem, there, problem.token_rows()
        place = {boundary: number for number, boundary in enumerate(problem.boundaries)}
        self._ends = [(place[start], place[end]) for start, end in ranges]
        self._places = {offer.record.id: number for number, offer in enumerate(problem.offers)}

    def seconds(self, stage: int, node: int, decided: Mapping[int, int]) -> float:
        """Of a token. The ways to neighbours that are lost, too, and not decided yet cost nothing so far."""
        start, end = self._ends[stage]
        here = self._places[node]
        row, hops, last = self._rows[here], self._problem.hops, len(self._ends) - 1
        total = row[end] - row[start] + row[0]
        where = {**self._there, **decided}
        if last:
            before, behind = where.get(stage - 1 if stage else last), where.get(stage + 1 if stage < last else 0)
            total += 0.0 if before is None else hops[self._places[before]][here]
            total += 0.0 if behind is None else hops[here][self._places[behind]]
        # The controller's way, to where answers begin and from where they end.
        return total + self._problem.ways[here] * ((stage == 0) + (stage == last))


def relocate(
    lost: Sequence[LostStage],
    nodes: Sequence[NodeCapacity],
    held: Mapping[tuple[int, int], int] | None = None,
    cost: Cost | None = None,
) -> dict[int, int] | None:
    """A node for each lost stage; None where no choice of nodes has room for all of them.

    The node that had it comes first, if it is among `nodes`: its disk has the weights, and its owner chose it. Else the
    one with room where it costs least of a token; of those that cost about the same the one whose disk has most of the
    weights, then the one with most memory left. The largest stage chooses first; what then leaves no room for another
    is given up again. Then all choose once more, knowing where the others went.

    Args:
        nodes: those that are there, with what they have free now.
        held: by node and stage, how many bytes of its weights lie on the node's disk already.
        cost: of a stage on a node; None for what the nodes' speeds beside each other say.

    Returns:
        the node's id by stage.
    """
    order = sorted(lost, key=lambda each: (-each.memory, each.stage))
    by_id = {node.node_id: node for node in nodes}
    reckoned = cost or (lambda stage, node, decided: 1 / by_id[node].speed)
    first = _assign(order, by_id, held or {}, reckoned, {})
    if cost is None or not first or len(lost) == 1:
        return first
    return _assign(order, by_id, held or {}, reckoned, first)


def _assign(
    lost: Sequence[LostStage],
    nodes: Mapping[int, NodeCapacity],
    held: Mapping[tuple[int, int], int],
    cost: Cost,
    decided: Mapping[int, int],
) -> dict[int, int] | None:
    if not lost:
        return {}
    stage, rest = lost[0], lost[1:]
    fitting = [node for node in nodes.values() if node.free_memory >= stage.memory]
    costs = {node.node_id: cost(stage.stage, node.node_id, decided) for node in fitting}
    least = min(costs.values(), default=0.0)

    def preference(node: NodeCapacity) -> tuple[bool, bool, int, float, int]:
        own = costs[node.node_id]
        alike = own <= least * (1 + ALIKE)
        on_disk = held.get((node.node_id, stage.stage), 0) if alike else 0
        return node.node_id != stage.node_id, not alike, -on_disk, own if not alike else 0.0, -node.free_memory

    for node in sorted(fitting, key=preference):
        left = replace(node, free_memory=node.free_memory - stage.memory)
        placed = {**decided, stage.stage: node.node_id}
        found = _assign(rest, {**nodes, node.node_id: left}, held, cost, placed)
        if found is not None:
            return {stage.stage: node.node_id, **found}
    return None
