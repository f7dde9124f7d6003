"""Replicas: deployments of one model that share its requests, and stand in for each other when one breaks.

A replica is a deployment like any other, of the same layers in the same numbers on other nodes: it has a ring, an epoch
and states of its own, and is mended and handed over by itself. Where two have a stage on the same node, that agent
keeps its weights once. A stage on two nodes is therefore two deployments that differ in that stage's node.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.errors import BadInput, PlacementError
from app.figures import layers, size_text
from app.inference.mender import Mender
from app.inference.pipeline import Pipeline
from app.inference.placing import Placing
from app.models.description import ModelDescription
from app.registry import DeploymentRecord, Registry, ShardRecord
from app.registry.records import leading
from app.sharding.capacity import NodeCapacity
from app.sharding.placement import Placement, place_ranges
from app.sharding.relocation import LostStage
from app.sharding.stage_sizes import StageSizes

AGAIN_SECONDS = 30.0
"""Between two tries to bring a broken replica back while another one answers."""
ON_THE_WAY_SECONDS = 1.0
"""How long a request may take from being sent to a deployment to being under way there; until then it counts, too."""
WORTH_WHILE = 0.5
"""The least share of a prompt whose states have to be somewhere already for that to count, …"""
HEAD_START = 2.0
"""… and what it then counts for: as much as if so many times fewer answers were under way there."""


@dataclass(frozen=True)
class Choice:
    """A deployment that could take a request."""

    deployment: str
    under_way: int
    """Answers that it is at, or was just given."""
    tokens_per_second: float | None
    """What is predicted of one answer alone, links included; None where nothing can be."""
    known: float = 0.0
    """The share of the prompt, 0 to 1, that another one began with whose states are there."""


def best(choices: Sequence[Choice]) -> Choice:
    """Which one takes it: where it has the largest share of the speed, unless another has read most of the prompt.

    One of which nothing can be predicted counts as being as fast as the slowest of the others.
    """
    slowest = min((each.tokens_per_second for each in choices if each.tokens_per_second), default=1.0)

    def share(choice: Choice) -> float:
        speed = (choice.tokens_per_second or slowest) / (choice.under_way + 1)
        return speed * HEAD_START if choice.known >= WORTH_WHILE else speed

    return max(choices, key=share)


class Replicas:
    """Which deployments are each other's, who takes a request, and who stands in. Belongs to the controller's loop.

    Args:
        live: the pipelines that are linked, or were, by deployment.
        placing: tells what nodes have free now, where stages are best, and what is predicted of them.
    """

    def __init__(
        self,
        registry: Registry,
        mender: Mender,
        live: Mapping[str, Pipeline],
        placing: Placing,
    ) -> None:
        self._registry, self._mender, self._live = registry, mender, live
        self._placing = placing
        self._known: dict[str, DeploymentRecord] = {}
        """Deployments that were ready when they were looked at last."""
        self._speeds: dict[tuple[str, int], float | None] = {}
        """Tokens per second, by deployment and epoch."""
        self._tried: dict[str, float] = {}
        self._sent: dict[str, list[float]] = {}
        """When requests were sent to each deployment, of the last second: they may be on their way to it still."""
        mender.stand_in = self.stand_in

    # --- where to ----------------------------------------------------------------------------------------

    async def plan(
        self,
        ready: Sequence[DeploymentRecord],
        description: ModelDescription,
        node_ids: Sequence[int] | None,
        *,
        keeps: bool,
    ) -> Placement:
        """The stages of a model's newest deployment once more, on these nodes, in order.

        Args:
            ready: the model's deployments, the newest first.
            node_ids: None for nodes that do not have them yet.
            keeps: whether nothing else is asked for.

        Raises BadInput, PlacementError, NodeError.
        """
        if not keeps:
            raise BadInput(
                "A replica has the layers, the numbers and the context of what is deployed.",
                "Leave these options out, or deploy without --replica.",
            )
        if not ready:
            raise PlacementError(f"{description.name} is not deployed, so it can have no replica.", "Deploy it first.")
        record = leading(ready)
        group = [each for each in ready if each.group == record.group]
        shards = {each.id: await self._shards(each) for each in group}
        stages = shards[record.id]
        held = {(shard.shard_id, shard.node_id) for every in shards.values() for shard in every}
        sizes = StageSizes(description, record.serving)
        if node_ids is None:
            node_ids = await self._others(record, description, stages, held, sizes)
        if len(node_ids) != len(stages):
            cut = ",".join(f"{shard.start_layer}-{shard.end_layer - 1}" for shard in stages)
            raise PlacementError(
                f"{len(node_ids)} nodes are named for the {len(stages)} stages of {record.model_name} ({cut}).",
                "Name one for each stage, in order; a node that has a stage already keeps its weights once.",
            )
        if any([shard.node_id for shard in every] == list(node_ids) for every in shards.values()):
            raise PlacementError(
                f"{record.model_name} answers on these nodes, in this order, already.",
                "Name another node for one of its stages at least.",
            )
        found = {
            node.node_id: node for node in await self._placing.capacities(list(dict.fromkeys(node_ids)), record.dtype)
        }
        shared = [
            sizes.weights(*_range(shard)) if (shard.shard_id, node) in held else 0
            for shard, node in zip(stages, node_ids, strict=True)
        ]
        _check_room(stages, node_ids, shared, found, sizes)
        where = [
            dataclasses.replace(found[node], free_memory=found[node].free_memory + weights)
            for node, weights in zip(node_ids, shared, strict=True)
        ]
        placement = place_ranges(description, where, [_range(shard) for shard in stages], record.serving)
        return dataclasses.replace(placement, replica_of=record.group, aim=record.aim)

    async def _others(
        self,
        record: DeploymentRecord,
        description: ModelDescription,
        stages: Sequence[ShardRecord],
        held: set[tuple[int, int | None]],
        sizes: StageSizes,
    ) -> list[int]:
        """For each stage a node that does not have it, or that which has it where no other has room."""
        nodes = await self._placing.capacities(None, record.dtype)
        taken: dict[int, int] = {}
        chosen: list[int] = []
        for shard in stages:
            free = [
                dataclasses.replace(node, free_memory=node.free_memory - taken.get(node.node_id, 0))
                for node in nodes
                if (shard.shard_id, node.node_id) not in held
            ]
            needs = sizes.memory(*_range(shard))
            lost = [LostStage(shard.shard_id, needs, 0)]
            ranges = [_range(each) for each in stages]
            there = {stage.shard_id: node for stage, node in zip(stages, chosen, strict=False)}
            found = (
                await self._placing.relocated(description, record.serving, ranges, there, lost, free) if free else None
            )
            target = shard.node_id or 0 if found is None else found[shard.shard_id]
            taken[target] = taken.get(target, 0) + (needs if found else needs - sizes.weights(*_range(shard)))
            chosen.append(target)
        if chosen == [shard.node_id for shard in stages]:
            least = min((sizes.memory(*_range(shard)) for shard in stages), default=0)
            raise PlacementError(
                f"No other node has room for a stage of {record.model_name}; the smallest takes {size_text(least)}.",
                "Add a node, or free memory on one that has none of it.",
            )
        return chosen

    # --- who takes a request -----------------------------------------------------------------------------

    async def pick(
        self, ready: Sequence[DeploymentRecord], description: ModelDescription, prompt: Sequence[int]
    ) -> DeploymentRecord | None:
        """The deployment that takes a request; None where none of those that share it is linked.

        Args:
            ready: the model's deployments, the newest first: those of its group share requests.
        """
        self._known |= {record.id: record for record in ready}
        group = [record for record in ready if record.group == ready[0].group]
        there = [record for record in group if self._is_whole(record.id)]
        if not there or len(group) == 1:
            return there[0] if there else None
        for record in group:
            if record not in there:
                self._try_again(record.id)
        choices = [await self._choice(record, description, prompt) for record in there]
        chosen = best(choices).deployment
        self._sent.setdefault(chosen, []).append(asyncio.get_running_loop().time())
        return next(record for record in there if record.id == chosen)

    async def _choice(self, record: DeploymentRecord, description: ModelDescription, prompt: Sequence[int]) -> Choice:
        pipeline = self._live[record.id]
        key = (record.id, pipeline.epoch)
        if key not in self._speeds:
            stages = [(stage.start, stage.end, stage.node_id) for stage in pipeline.stages]
            told = await self._placing.foretell(description, record.serving, stages)
            self._speeds[key] = None if told is None else told.tokens_per_second
        known = pipeline.under_way.in_common(prompt) / len(prompt) if prompt else 0.0
        since = asyncio.get_running_loop().time() - ON_THE_WAY_SECONDS
        sent = self._sent[record.id] = [at for at in self._sent.get(record.id, ()) if at > since]
        return Choice(record.id, pipeline.active + len(sent), self._speeds[key], known)

    def _try_again(self, deployment: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._tried.get(deployment, -AGAIN_SECONDS) >= AGAIN_SECONDS:
            self._tried[deployment] = now
            self._mender.look_after(deployment)

    # --- who stands in -----------------------------------------------------------------------------------

    def joined(self, record: DeploymentRecord) -> None:
        """A deployment has become ready."""
        self._known[record.id] = record

    def stand_in(self, pipeline: Pipeline, *, at_last: bool) -> Pipeline | None:
        """Where the sequences of a broken pipeline can go on at once: their tokens are read anew there.

        Args:
            at_last: nothing else is left to do. Before that, nobody is moved who was promised to go on to the bit.
        """
        record = self._known.get(pipeline.deployment)
        if record is None or (record.recovery == "exact" and record.dtype != "float32" and not at_last):
            return None
        others = [
            self._live[each.id]
            for each in self._known.values()
            if each.id != record.id and each.group == record.group and self._is_whole(each.id)
        ]
        return min(others, key=lambda other: other.active, default=None)

    def heir_of(self, record: DeploymentRecord) -> str:
        """The group of what is to take a deployment's place: that of its replicas, if it has any."""
        others = (each for each in self._known.values() if each.id != record.id and each.group == record.group)
        return record.group if any(others) else ""

    def ended(self, deployment: str) -> None:
        self._known.pop(deployment, None)
        self._tried.pop(deployment, None)
        self._sent.pop(deployment, None)
        self._speeds = {key: speed for key, speed in self._speeds.items() if key[0] != deployment}

    def _is_whole(self, deployment: str) -> bool:
        pipeline = self._live.get(deployment)
        return pipeline is not None and pipeline.broken is None and not pipeline.closed

    async def _shards(self, record: DeploymentRecord) -> list[ShardRecord]:
        return await self._registry.call(lambda known: known.shards.list(deployment_id=record.id))


def _range(shard: ShardRecord) -> tuple[int, int]:
    return shard.start_layer, shard.end_layer


def _check_room(
    stages: Sequence[ShardRecord],
    node_ids: Sequence[int],
    shared: Sequence[int],
    nodes: Mapping[int, NodeCapacity],
    sizes: StageSizes,
) -> None:
    """Raises PlacementError where a node has no room for its stages, besides what it holds."""
    coming: dict[int, list[tuple[ShardRecord, int]]] = {}
    for shard, id, weights in zip(stages, node_ids, shared, strict=True):
        coming.setdefault(id, []).append((shard, sizes.memory(*_range(shard)) - weights))
    for id, each in coming.items():
        needed, node = sum(nbytes for _, nbytes in each), nodes[id]
        if needed > node.free_memory:
            what = " and ".join(layers(*_range(shard)) for shard, _ in each)
            raise PlacementError(
                f"{node.name} has {size_text(node.free_memory)} free, {what} take {size_text(needed)} there: "
                f"{size_text(needed - node.free_memory)} are missing.",
                "Name another node, or free memory there.",
            )
