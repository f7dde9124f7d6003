"""Whose memory is whose: what each node has for the draft once the other deployments have had theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from app.children.work import NodeProgress
from app.errors import BadInput, PlacementError
from app.figures import layers_text
from app.runs.ways import lost_text
from app.sharding.arrangement import Arrangement
from app.sharding.capacity import KnownNode, NodeCapacity, node_capacities
from app.sharding.prediction import NodeSpeed, speed_of
from app.sharding.stage_sizes import StageSizes
from app.ui.board.state.lanes import Block, BlockKind, LaneSnapshot, unavailable_because
from app.ui.cluster import Cluster
from app.ui.snapshots import DeploymentSnapshot, NodeSnapshot


class BoardMemory:
    """Reads the cluster's mirror. What follows from the deployments is worked out once, until `forget`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._blocks: dict[str, tuple[tuple[int, Block], ...]] = {}
        self._others: dict[str | None, dict[int, list[Block]]] = {}
        """What others than a model's own deployment hold, by model and node."""
        self._capacities: dict[tuple[str, str], dict[int, NodeCapacity]] = {}

    def forget(self) -> None:
        """Models or deployments are others now."""
        self._blocks.clear()
        self._others.clear()
        self._capacities.clear()

    def forget_nodes(self) -> None:
        """Nodes are others now, or their figures."""
        self._capacities.clear()

    def loaded(self, model: str | None) -> Arrangement | None:
        """The newest ready deployment of a model as an arrangement."""
        view = self._cluster.deployment_of(model) if model else None
        description = self._cluster.model(model) if model else None
        if view is None or description is None:
            return None
        pieces = [(shard.start_layer, shard.end_layer, shard.node_id) for shard in view.shards]
        try:
            return Arrangement.of_ranges(description, view.record.serving, pieces)
        except (BadInput, PlacementError):  # the model was replaced by another of its name since
            return None

    def others(self, node: int, model: str | None) -> tuple[Block, ...]:
        """What other deployments hold on a node: those of other models, and replicas of this one. The draft replaces
        what is loaded of its own model."""
        known = self._others.get(model)
        if known is None:
            known = self._others[model] = {}
            for owner, block in (*self._of_other_models(model), *self._of_replicas(model)):
                known.setdefault(owner, []).append(block)
        return tuple(known.get(node, ()))

    def _of_other_models(self, model: str | None) -> Iterator[tuple[int, Block]]:
        for view in self._cluster.deployments:
            if view.record.model_name != model:
                yield from self._blocks_of(view)

    def _of_replicas(self, model: str | None) -> Iterator[tuple[int, Block]]:
        """Weights that the model's own stage has on the same node as well count once."""
        loaded = self._cluster.deployment_of(model) if model is not None else None
        if loaded is None:
            return
        own = {(shard.shard_id, shard.node_id) for shard in loaded.shards}
        for view in self._cluster.replicas_of(loaded):
            for number, (owner, block) in enumerate(self._blocks_of(view)):
                yield owner, replace(
                    block, kind=BlockKind.REPLICA, echoes=number,
                    label=f"Replica {layers_text(block.start, block.end)}",
                    weight_bytes=0 if (number, owner) in own else block.weight_bytes,
                )  # fmt: skip

    def free_for(self, view: NodeSnapshot, model: str | None) -> int:
        """Bytes that the draft of a model may take on a node; below 0 when the others are too large already."""
        return view.memory_budget - self._held_by_others(view, model)

    def _held_by_others(self, view: NodeSnapshot, model: str | None) -> int:
        return sum(block.memory for block in self.others(view.id, model))

    def capacities(self, model: str, dtype: str) -> dict[int, NodeCapacity]:
        """Of every node that can take shards now, in the registry's order. Kept: a drag asks for each node."""
        known = self._capacities.get((model, dtype))
        if known is None:
            known = self._capacities[model, dtype] = self._measure_nodes(model, dtype)
        return known

    def _measure_nodes(self, model: str, dtype: str) -> dict[int, NodeCapacity]:
        usable = [view for view in self._cluster.nodes.values() if not unavailable_because(view)]
        known = [KnownNode(view.record, view.report, self._held_by_others(view, model)) for view in usable]
        return {capacity.node_id: capacity for capacity in node_capacities(known, dtype)}

    def speed(self, view: NodeSnapshot, dtype: str) -> NodeSpeed | None:
        """None when the agent has not measured this dtype."""
        return speed_of(view.record.capacities, dtype, view.rtt)

    def lanes(
        self, model: str | None, draft: Arrangement | None, is_loaded: bool, progress: dict[int, NodeProgress]
    ) -> tuple[LaneSnapshot, ...]:
        """Every node with the draft's blocks and the others', in the registry's order."""
        kind = BlockKind.DEPLOYED if is_loaded else BlockKind.PROPOSED
        loaded = self._cluster.deployment_of(model) if model is not None and is_loaded else None
        told = () if loaded is None else self._cluster.ways(loaded)
        slower = {(shard.start_layer, shard.end_layer): lost_text(ways) for shard, ways in told}
        mine: dict[int, list[Block]] = {}
        for stage, piece in enumerate(draft.pieces if draft is not None else ()):
            if draft is not None and piece.node_id is not None:
                mine.setdefault(piece.node_id, []).append(
                    Block(
                        kind, stage, piece.start, piece.end, draft.weights(stage), draft.kv(stage), draft.model_name,
                        slower.get((piece.start, piece.end), ""),
                    )
                )  # fmt: skip
        lanes = []
        for view in self._cluster.nodes.values():
            blocks = (*self.others(view.id, model), *mine.get(view.id, ()))
            free = view.memory_budget - sum(block.memory for block in blocks)
            lanes.append(
                LaneSnapshot(
                    view, view.memory_budget, max(0, free), blocks, max(0, -free),
                    not unavailable_because(view), progress.get(view.id),
                )
            )  # fmt: skip
        return tuple(lanes)

    def _blocks_of(self, view: DeploymentSnapshot) -> tuple[tuple[int, Block], ...]:
        known = self._blocks.get(view.record.id)
        if known is None:
            known = self._blocks[view.record.id] = self._measure(view)
        return known

    def _measure(self, view: DeploymentSnapshot) -> tuple[tuple[int, Block], ...]:
        record = view.record
        description = self._cluster.model(record.model_name)
        if description is None:
            return ()
        sizes = StageSizes(description, record.serving)
        return tuple(
            (
                shard.node_id,
                Block(
                    BlockKind.OTHER, None, shard.start_layer, shard.end_layer,
                    sizes.weights(shard.start_layer, shard.end_layer), sizes.kv(shard.start_layer, shard.end_layer),
                    record.model_name,
                ),
            )
            for shard in view.shards
            if shard.node_id is not None and shard.end_layer <= description.num_layers
        )  # fmt: skip
