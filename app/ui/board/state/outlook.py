"""What the draft would be like to use: its predicted speed, beside that of the best single node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.sharding.arrangement import Arrangement
from app.sharding.correction import Corrections
from app.sharding.foresight import assumed_texts, foretell, link_speeds
from app.sharding.prediction import Prediction
from app.ui.board.state.memory import BoardMemory
from app.ui.cluster import Cluster
from app.ui.snapshots import NodeSnapshot


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

    def assumed(self, draft: Arrangement) -> tuple[str, ...]:
        """What the prediction of a draft assumes instead of having it measured, a sentence each."""
        prediction = self.of(draft)
        nodes = [self._cluster.nodes[node].record for node in draft.joined().nodes if node in self._cluster.nodes]
        return () if prediction is None else assumed_texts(prediction, nodes)

    def _single(self, whole: Arrangement, view: NodeSnapshot) -> Prediction | None:
        return self._foretold(whole, [view])

    def _predict(self, draft: Arrangement, views: list[NodeSnapshot]) -> Prediction | None:
        speeds = [self._memory.speed(view, draft.serving.dtype) for view in views]
        links, learned = self._cluster.links, self._cluster.comparisons
        newest = links[0].id if links else 0, learned[0].id if learned else 0
        key = (draft.model_name, draft.serving, draft.pieces, tuple(speeds), newest)
        if self._known is None or self._known[0] != key:
            self._known = (key, self._foretold(draft, views))
        return self._known[1]

    def _foretold(self, draft: Arrangement, views: Sequence[NodeSnapshot]) -> Prediction | None:
        return foretell(
            draft.description,
            draft.serving,
            [(piece.start, piece.end, view.record) for piece, view in zip(draft.pieces, views, strict=True)],
            round_trips={view.id: view.rtt for view in views},
            links=link_speeds(self._cluster.links),
            corrections=Corrections(self._cluster.comparisons),
        )
