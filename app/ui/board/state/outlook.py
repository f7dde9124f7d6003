"""What the draft would be like to use: its predicted speed, beside that of the best single node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import BadInput
from app.sharding.arrangement import Arrangement
from app.sharding.prediction import NodeSpeed, Prediction, predict
from app.ui.board.state.memory import BoardMemory
from app.ui.cluster import Cluster, NodeSnapshot


@dataclass(frozen=True)
class BestSingle:
    """The fastest node that can hold the whole model. No prediction when it was not measured."""

    node: NodeSnapshot
    prediction: Prediction | None


class BoardOutlook:
    """Predicts, and remembers while nothing has changed."""

    def __init__(self, cluster: Cluster, memory: BoardMemory) -> None:
        self._cluster, self._memory = cluster, memory
        self._known: tuple[object, Prediction | None] | None = None

    def of(self, draft: Arrangement) -> Prediction | None:
        """None while a shard has no node, or for nodes that have not measured themselves."""
        views = [self._cluster.nodes.get(node) for node in draft.joined().nodes if node is not None]
        if not draft.is_placed or None in views:
            return None
        return self._predict(draft.joined(), [view for view in views if view is not None])

    def best_single(self, draft: Arrangement) -> BestSingle | None:
        """None when no node can hold the model alone."""
        everything = (0, draft.description.num_layers)
        needed = draft.sizes.memory(*everything)
        capacities = self._memory.capacities(draft.model_name, draft.serving.dtype)
        able = [capacity for capacity in capacities.values() if capacity.free_memory >= needed]
        if not able:
            return None
        best = max(able, key=lambda capacity: (capacity.speed, capacity.free_memory))
        view = self._cluster.nodes[best.node_id]
        return BestSingle(view, self._single(draft.whole_on(best.node_id), view))

    def _single(self, whole: Arrangement, view: NodeSnapshot) -> Prediction | None:
        speed = self._memory.speed(view, whole.serving.dtype)
        if speed is None:
            return None
        return _predicted(whole, [(0, whole.description.num_layers, speed)], (True,))

    def _predict(self, draft: Arrangement, views: list[NodeSnapshot]) -> Prediction | None:
        speeds = [self._memory.speed(view, draft.serving.dtype) for view in views]
        key = (draft.model_name, draft.serving, draft.pieces, tuple(speeds))
        if self._known is None or self._known[0] != key:
            stages = [
                (piece.start, piece.end, speed)
                for piece, speed in zip(draft.pieces, speeds, strict=True)
                if speed is not None
            ]
            machines = [view.record.machine for view in views]
            local = tuple(one == other for one, other in zip(machines, [*machines[1:], machines[0]], strict=True))
            known = _predicted(draft, stages, local) if len(stages) == len(draft.pieces) else None
            self._known = (key, known)
        return self._known[1]


def _predicted(
    draft: Arrangement, stages: Sequence[tuple[int, int, NodeSpeed]], local: tuple[bool, ...]
) -> Prediction | None:
    try:
        return predict(
            draft.description, stages, dtype=draft.serving.dtype, quantize=draft.serving.quantize, same_machine=local
        )
    except BadInput:  # figures of a machine that make no sense: better none than a wrong one
        return None
