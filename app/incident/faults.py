"""Has to a replay happen what happened to the request: the same layers are lost, or handed over, at the same token.

A stage is lost by ending its agent's process, so only agents that were launched on this machine can be made to lose
one. Which layers an interruption concerned is in its record; who holds them now, the registry knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from app.errors import RequestError, ShardboardError
from app.figures import layers as layers_text
from app.inference.request_run import RequestRun
from app.registry import NodeRecord, ShardRecord
from app.runs.trace import Interruption, LayersWent

if TYPE_CHECKING:
    from app.controller import Controller  # slow to load, and --help does without

LOOK_SECONDS = 0.002
"""How often the replay's tokens are counted: a token of the smallest models takes about as long."""


class Faults:
    """What interrupted a request, for its replay.

    Args:
        interruptions: those of the request, in order. Those that concerned no layers cannot be repeated: a controller
            that ended, or a record of an older version.
    """

    def __init__(self, controller: Controller, interruptions: Sequence[Interruption]) -> None:
        self._controller = controller
        self._coming = [each for each in interruptions if each.layers]
        self._ended: set[int] = set()

    def check(self) -> None:
        """Raises RequestError where there is nothing to repeat."""
        if not self._coming:
            raise RequestError(
                "The bundle tells of no stage that was lost or handed over, so there is nothing to repeat.",
                "Replay it without --faults.",
            )

    async def happen(self, run: RequestRun) -> None:
        """Have all of them happen to a run, each when it has as many tokens as the request had.

        Ends with the run. Raises RequestError where one cannot be repeated here, and what starting an agent raises.
        """
        for fault in self._coming:
            while len(run.token_ids) < fault.tokens or (not fault.tokens and run.record.deployment_id is None):
                if run.is_over:
                    return
                await asyncio.sleep(LOOK_SECONDS)
            if run.is_over:
                return
            before = len(run.recorder.interruptions)
            await (self._hand_over(run, fault) if fault.planned else self._lose(run, fault))
            while len(run.recorder.interruptions) == before and not run.is_over:
                await asyncio.sleep(LOOK_SECONDS)

    async def restore(self) -> None:
        """Start the agents again that were ended and are still away. Those that cannot be are left to `node start`."""
        for node in sorted(self._ended):
            with suppress(ShardboardError):
                await self._controller.start_agent(node)
        self._ended.clear()

    async def _lose(self, run: RequestRun, fault: Interruption) -> None:
        holders, others = await self._holders(run)
        lost = next((each for each in fault.layers if each.node == fault.node), fault.layers[0])
        node = _holder_of(holders, lost)
        local = await self._controller.nodes.local()
        process = await asyncio.to_thread(local[node].agent.process) if node in local else None
        if process is None:
            raise RequestError(
                f"{layers_text(lost.start, lost.end)} are on a node whose agent was not launched here, or does not "
                "run, so it cannot be made to lose them.",
                "Replay on agents of this machine: node local 3, and replay with --deploy --faults.",
            )
        process.kill()
        self._ended.add(node)
        if lost.went == lost.node or not others:  # it came back, or nobody else could take its layers
            await asyncio.to_thread(process.wait)
            await self._controller.start_agent(node)
            self._ended.discard(node)

    async def _hand_over(self, run: RequestRun, fault: Interruption) -> None:
        await self.restore()  # they may be whom the layers are to go to
        holders, others = await self._holders(run)
        moving = {_holder_of(holders, each): each.went for each in fault.layers}
        nodes: list[int] = []
        for shard in holders:
            went = moving.get(shard.node_id or 0)
            if went is None:
                nodes.append(shard.node_id or 0)
                continue
            free = [other for other in others if other.id not in nodes]
            if not free:
                what = layers_text(shard.start_layer, shard.end_layer)
                raise RequestError(
                    f"There is no node to which {what} could be handed over.",
                    "Start one more agent: node local 1",
                )
            nodes.append(next((other for other in free if other.hostname == went), free[0]).id)
        placement = await self._controller.plan(run.record.model_name, nodes=nodes, live=True)
        if placement.moves != run.record.deployment_id:
            raise RequestError(
                f"{run.record.model_name} is deployed several times, so the replay's own cannot be handed over.",
                "Undeploy the others first.",
            )
        await self._controller.hand_over(run.record.model_name, nodes=nodes)

    async def _holders(self, run: RequestRun) -> tuple[list[ShardRecord], list[NodeRecord]]:
        """The stages of what a run runs on now, in order, and the nodes beside them that could take one."""
        deployment = run.record.deployment_id
        holders = await self._controller.registry.call(lambda known: known.shards.list(deployment_id=deployment))
        taken = {shard.node_id for shard in holders}
        every = await self._controller.list_nodes()
        return holders, [node for node in every if node.is_active and not node.draining and node.id not in taken]


def _holder_of(holders: Sequence[ShardRecord], wanted: LayersWent) -> int:
    """The node that holds the first of these layers now; where they are cut otherwise, its whole stage goes."""
    return next(shard.node_id or 0 for shard in holders if shard.start_layer <= wanted.start < shard.end_layer)
