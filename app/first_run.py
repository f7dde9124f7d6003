"""From nothing to a first answer: agents on this machine, and a model over them. What is there already is taken.

The one recipe of the demo, of `serve` and of the window's first page; each adds what it says meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.children.work import ProgressCallback
from app.controller import Controller
from app.registry import DeploymentRecord, NodeRecord, Registry
from app.runs.trace import UNKNOWN, Origin


@dataclass(frozen=True)
class TakenAgents:
    """Nodes of this machine: those that ran, those that were stopped and run again, those that were made."""

    running: tuple[NodeRecord, ...]
    revived: tuple[NodeRecord, ...]
    made: tuple[NodeRecord, ...]

    @property
    def nodes(self) -> tuple[NodeRecord, ...]:
        return (*self.running, *self.revived, *self.made)


async def take_local_agents(
    controller: Controller,
    count: int,
    *,
    keep: bool = True,
    on_starting: Callable[[int], None] = lambda count: None,
    origin: Origin = UNKNOWN,
) -> TakenAgents:
    """See that `count` agents run on this machine. Raises NodeError when one does not come up.

    Args:
        keep: as for `Controller.launch_local`, for those that are made.
        on_starting: told how many have to be started, if any.
    """
    local = [each for each in (await controller.nodes.local()).values() if not each.record.draining]
    running = sorted((each.record for each in local if each.runs), key=lambda record: not record.is_active)[:count]
    stopped = [each.record for each in local if not each.runs][: count - len(running)]
    missing = count - len(running) - len(stopped)
    if stopped or missing:
        on_starting(len(stopped) + missing)

    async def make() -> list[NodeRecord]:
        return await controller.launch_local(missing, keep=keep, origin=origin) if missing else []

    reviving = asyncio.gather(*(controller.start_agent(record.id, origin=origin) for record in stopped))
    made, revived = await asyncio.gather(make(), reviving)
    return TakenAgents(tuple(running), tuple(revived), tuple(made))


def starting_text(count: int) -> str:
    """What is said while so many agents are started."""
    return f"Starting {count} agent{'s' if count > 1 else ''} on this machine."


async def give_back(controller: Controller, agents: TakenAgents) -> None:
    """Have this machine as it was before `take_local_agents`: made nodes go, revived agents are stopped."""
    for record in agents.made:
        await controller.remove_node(str(record.id))
    for record in agents.revived:
        await controller.stop_agent(record.id)


async def deploy_over(
    controller: Controller,
    model: str,
    nodes: Sequence[int],
    *,
    on_progress: ProgressCallback | None = None,
    origin: Origin = UNKNOWN,
) -> DeploymentRecord:
    """Deploy a model over these nodes, unless it is deployed over them already. Raises as `Controller.deploy`."""

    def over(known: Registry, record: DeploymentRecord) -> set[int | None]:
        return {shard.node_id for shard in known.shards.list(deployment_id=record.id)}

    for record in await controller.deployments.ready(model):
        if await controller.registry.call(functools.partial(over, record=record)) == set(nodes):
            return record
    return await controller.deploy(model, nodes=list(nodes), on_progress=on_progress, origin=origin)
