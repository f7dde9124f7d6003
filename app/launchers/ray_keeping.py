"""What the controller does unasked about Ray: find again what Ray has started anew, bring back what is missing, let
agents rest while nobody asks anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from app.cluster.health import NodeDown, NodeEvent
from app.cluster.nodes import NodeDirectory
from app.errors import ShardboardError
from app.launchers.ray import RayLauncher
from app.registry import DeploymentStatus, EventLevel, NodeRecord, Registry

log = logging.getLogger(__name__)

FIRST_SECONDS = 12.0
"""After a node was lost: Ray starts an agent on the same machine again by itself, and it comes back by itself."""
AGAIN_SECONDS = 30.0
"""Between two looks while something is missing: each is a child process that imports Ray."""
IDLE_LOOK_SECONDS = 1.0


class RayKeeping:
    """Belongs to the controller's loop.

    Args:
        is_needed: requests and jobs that are under way; false when there are none.
    """

    def __init__(
        self, launcher: RayLauncher, nodes: NodeDirectory, registry: Registry, is_needed: Callable[[], object]
    ) -> None:
        self._launcher, self._nodes, self._registry, self._is_needed = launcher, nodes, registry, is_needed
        self._tasks: list[asyncio.Task[None]] = []
        self._lost = asyncio.Event()
        self.first_seconds, self.again_seconds = FIRST_SECONDS, AGAIN_SECONDS

    def begin(self) -> None:
        """Of a controller that stays."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._restoring()), loop.create_task(self._resting())]
        if self._launcher.wish is not None:  # whatever happened since a controller looked last
            self._lost.set()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def on_node_event(self, event: NodeEvent) -> None:
        """A node was lost: perhaps one of Ray's."""
        if isinstance(event, NodeDown) and self._launcher.wish is not None and event.kind != "stopped":
            self._lost.set()

    async def wake_for(self, model: str, preparing: Callable[[str], None]) -> None:
        """Bring back agents that rest, where a model's deployment is on them or it has none. Raises NodeError."""
        if not self._launcher.is_resting:
            return

        def nodes_of(known: Registry) -> list[NodeRecord | None]:
            ready = known.deployments.list(model_name=model, status=DeploymentStatus.READY)
            shards = [shard for record in ready for shard in known.shards.list(deployment_id=record.id)]
            return [None if shard.node_id is None else known.nodes.get(shard.node_id) for shard in shards]

        nodes = await self._registry.call(nodes_of)
        own = await self._launcher.keys()
        if not nodes or any(node is not None and node.public_key in own for node in nodes):
            preparing("waking Ray's agents")
            await self._launcher.wake()

    async def _restoring(self) -> None:
        while True:
            await self._lost.wait()
            await asyncio.sleep(self.first_seconds)
            self._lost.clear()
            said = ""
            while await self._missing() > 0:
                problem = "its nodes do not suffice."
                try:
                    await self._restore()
                except ShardboardError as error:
                    problem = str(error)
                if (missing := await self._missing()) <= 0:
                    break
                if problem != said:
                    said = problem
                    await self._tell(f"Of Ray's agents {missing} are missing: {problem}")
                await asyncio.sleep(self.again_seconds)

    async def _missing(self) -> int:
        """How many agents fewer answer than are to be kept."""
        wish = self._launcher.wish
        if wish is None or self._launcher.is_resting:
            return 0
        own, nodes = await self._launcher.keys(), await self._registry.call(lambda known: known.nodes.list())
        return wish.nodes - sum(node.public_key in own and self._nodes.health.is_alive(node.id) for node in nodes)

    async def _restore(self) -> None:
        """Find what Ray has started again; where that does not suffice, have it start more on nodes that have none."""
        await self._launcher.look()
        if await self._missing() > 0:
            await self._launcher.restore()
        if await self._missing() <= 0:
            await self._tell("Ray's agents are complete again.", EventLevel.INFO)

    async def _resting(self) -> None:
        """End Ray's agents when nobody has asked anything for as long as was wished."""
        loop = asyncio.get_running_loop()
        needed_at = loop.time()
        while True:
            await asyncio.sleep(IDLE_LOOK_SECONDS)
            wish = self._launcher.wish
            if wish is None or wish.idle_seconds is None or self._launcher.is_resting or self._is_needed():
                needed_at = loop.time()
            elif loop.time() - needed_at >= wish.idle_seconds:
                try:
                    await self._launcher.rest()
                    await self._tell(
                        "Ray's agents rest until the next request: nobody asked anything.", EventLevel.INFO
                    )
                except ShardboardError as error:
                    log.warning("Ray's agents could not be ended while idle: %s", error)
                needed_at = loop.time()

    async def _tell(self, sentence: str, level: EventLevel = EventLevel.WARNING) -> None:
        try:
            await self._registry.call(lambda known: known.events.add(level, "nodes", sentence))
        except ShardboardError as error:
            log.warning("%s (which could not be written down: %s)", sentence, error)
