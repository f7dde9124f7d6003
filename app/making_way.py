"""What the controller does when a machine's owner needs it: move what it holds to other nodes, while that answers."""

from __future__ import annotations

import asyncio
import logging

from app.cluster.health import NodeEvent, NodeYields
from app.cluster.nodes import NodeDirectory
from app.errors import RegistryError, ShardboardError
from app.inference.deployments import Deployments
from app.jobs.desk import JobDesk
from app.jobs.works import HandOverWork
from app.registry import EventLevel, Registry
from app.runs.trace import UNKNOWN

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Between two looks whether the node holds something: what was on its way there when it began to yield comes late."""
AGAIN_SECONDS = 30.0
"""Before it is tried once more to move what had no room elsewhere."""


class MakingWay:
    """Belongs to the controller's loop. One task for each node that yields."""

    def __init__(self, registry: Registry, nodes: NodeDirectory, deployments: Deployments, jobs: JobDesk) -> None:
        self._registry, self._nodes, self._deployments, self._jobs = registry, nodes, deployments, jobs
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def on_node_event(self, event: NodeEvent) -> None:
        """A node yields, or does not any more."""
        if isinstance(event, NodeYields):
            if (task := self._tasks.pop(event.node, None)) is not None:
                task.cancel()
            if event.reason:
                self._tasks[event.node] = asyncio.get_running_loop().create_task(self._make_way(event.node))

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _make_way(self, node_id: int) -> None:
        """Move all that the node holds, for as long as it yields."""
        said = ""
        while True:
            seconds = LOOK_SECONDS
            try:
                node = await self._registry.call(lambda known: known.nodes.get(node_id))
            except RegistryError:
                return  # it was removed
            try:
                if not self._nodes.health.yields(node_id):  # it is away: what it held is the recovery's to see to
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                async for placement in self._deployments.away_from(node):
                    # A job of its own goes on to its end, also if the owner is done before.
                    await asyncio.shield(self._jobs.do(HandOverWork(placement), UNKNOWN))
            except ShardboardError as error:
                seconds = AGAIN_SECONDS
                sentence = f"It goes on there, slowly: {error.message}"
                if sentence != said:
                    said = sentence
                    await self._tell(node_id, sentence)
            await asyncio.sleep(seconds)

    async def _tell(self, node: int, sentence: str) -> None:
        try:
            await self._registry.call(
                lambda known: known.events.add(EventLevel.WARNING, "nodes", sentence, node_id=node)
            )
        except ShardboardError as error:
            log.warning("%s (which could not be written down: %s)", sentence, error)
