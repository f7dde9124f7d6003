"""What a drop would mean, in a few words; asked on every mouse move."""

from __future__ import annotations

from dataclasses import replace

from app.errors import ShardboardError
from app.figures import layers, layers_text, size_text
from app.sharding.arrangement import Arrangement
from app.sharding.capacity import NodeCapacity
from app.ui.board.deploying import Deploying
from app.ui.board.state.drafts import Drafts
from app.ui.board.state.lanes import MAKE_ROOM, Verdict, fit, unavailable_because
from app.ui.board.state.memory import BoardMemory
from app.ui.cluster import Cluster


class Judge:
    """Reads drafts, memory and nodes, and changes nothing."""

    def __init__(self, cluster: Cluster, drafts: Drafts, memory: BoardMemory, deploying: Deploying) -> None:
        self._cluster, self._drafts, self._memory, self._deploying = cluster, drafts, memory, deploying

    def model(self, name: str, node_id: int | None) -> Verdict:
        """Dropping a model onto a node, or onto the board for None."""
        draft = self._drafts.of(name)
        if draft is None:
            return Verdict(False, f"{name} is not in the library")
        if busy := self._busy(name):
            return busy
        needed = draft.sizes.memory(0, draft.description.num_layers)
        capacities = self._capacities(draft)
        if node_id is not None:
            if refusal := self._refusal(node_id):
                return refusal
            return fit(needed, capacities[node_id].free_memory)
        if not capacities:
            return Verdict(False, "no node is available")
        free = sum(capacity.free_memory for capacity in capacities.values())
        if needed > free:
            return Verdict(False, f"needs {size_text(needed)}, the nodes have {size_text(free)} free together")
        count = len(capacities)
        return Verdict(
            True, f"propose a plan: {size_text(needed)}, {count} node{'s' if count > 1 else ''} to choose from"
        )

    def shard(self, draft: Arrangement | None, stage: int, node_id: int) -> Verdict:
        """Dropping a shard of a draft onto a node."""
        if draft is None or not 0 <= stage < len(draft.pieces):
            return Verdict(False, "there is no such shard")
        if busy := self._busy(draft.model_name):
            return busy
        if draft.pieces[stage].node_id == node_id:
            return Verdict(False, "is on this node already")
        if refusal := self._refusal(node_id):
            return refusal
        free = self._capacities(draft)[node_id].free_memory - draft.memory_on(node_id)
        return fit(draft.memory(stage), free)

    def boundary(self, draft: Arrangement | None, boundary: int, layer: int) -> Verdict:
        """Putting a boundary of a draft before a layer."""
        if draft is None:
            return Verdict(False, "no model is chosen")
        if busy := self._busy(draft.model_name):
            return busy
        try:
            made = draft.with_boundary(boundary, layer)
        except ShardboardError as error:
            return Verdict(False, error.message)
        verdict = self.step(draft, made)
        if not verdict.allowed:
            return verdict
        one, other = made.pieces[boundary], made.pieces[boundary + 1]
        return Verdict(
            True,
            f"{layers(one.start, one.end)} ({size_text(made.memory(boundary))}) and "
            f"{layers_text(other.start, other.end)} ({size_text(made.memory(boundary + 1))})",
        )

    def step(self, before: Arrangement, after: Arrangement) -> Verdict:
        """A change of a draft: no node may lack more than it did, and no shard may go to a node that is away."""
        capacities = self._capacities(after)
        for node in dict.fromkeys(after.nodes):
            if node is not None and node not in before.nodes and (refusal := self._refusal(node)):
                return replace(refusal, text=f"{self._name(node)} {refusal.text}")
        lacked = {short.node.node_id: short.missing for short in before.shortages(capacities)}
        for short in after.shortages(capacities):
            if short.missing > lacked.get(short.node.node_id, 0):
                text = f"needs {size_text(short.needed)}, {size_text(short.node.free_memory)} free"
                return Verdict(False, f"{short.node.name} {text}", MAKE_ROOM)
        return Verdict(True, "fits")

    def _capacities(self, draft: Arrangement) -> dict[int, NodeCapacity]:
        return self._memory.capacities(draft.model_name, draft.serving.dtype)

    def _refusal(self, node_id: int) -> Verdict | None:
        view = self._cluster.nodes.get(node_id)
        if view is None:
            return Verdict(False, "is not there any more", "Take another node.")
        why = unavailable_because(view)
        return Verdict(False, why, "Take another node, or wait until this one takes work.") if why else None

    def _busy(self, name: str) -> Verdict | None:
        if self._deploying.model_name == name:
            return Verdict(False, f"{name} is being deployed")
        return None

    def _name(self, node_id: int) -> str:
        view = self._cluster.nodes.get(node_id)
        return view.name if view is not None else f"node {node_id}"
