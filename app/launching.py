"""Agents brought to machines by launchers: this machine, SSH, Ray. Window, HTTP and commands go by these functions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from app.children.work import ProgressCallback
from app.controller import ANY_SERVING, Controller
from app.errors import PlacementError
from app.jobs.launching import LaunchWork, UpdateWork
from app.launchers.launcher import LauncherState, RayWish, Wish
from app.launchers.ray_messages import RayCluster
from app.registry import DeploymentRecord, NodeRecord
from app.runs.trace import UNKNOWN, Origin
from app.serving import ServingWish
from app.sharding.planning.aims import DEFAULT_AIM


async def launch(
    controller: Controller, wish: Wish, on_progress: ProgressCallback | None = None, origin: Origin = UNKNOWN
) -> list[NodeRecord]:
    """Have a launcher bring agents; the nodes as wished. Cancelling the call cancels the job. Raises BadInput,
    NodeError."""
    return await controller.jobs.do(LaunchWork(wish), origin, on_progress)


async def launchers(controller: Controller) -> list[LauncherState]:
    """Which launchers there are, whether each can be used here, and what each has brought."""
    return await controller.launchers.states()


async def update_agent(
    controller: Controller, id_or_name: str, on_progress: ProgressCallback | None = None, origin: Origin = UNKNOWN
) -> NodeRecord:
    """End the agent of a node that a launcher has brought and start it with today's program. Cancelling the call
    cancels the job. Raises NodeError."""
    node = await controller.registry.call(lambda known: known.nodes.find(id_or_name))
    return await controller.jobs.do(UpdateWork(node.id, node.hostname), origin, on_progress)


async def look_at_ray(controller: Controller, address: str | None = None) -> RayCluster:
    """A Ray cluster as it is now: its nodes and our agents. Raises NodeError.

    Args:
        address: None for the one that is used, or that this machine is in.
    """
    return await controller.launchers.ray.look(address)


async def end_ray(controller: Controller) -> list[NodeRecord]:
    """End Ray's agents and keep none; their nodes stay, stopped. Raises NodeError."""
    return await controller.launchers.ray.end()


async def deploy_on_ray(
    controller: Controller,
    model: str, most: int, *, nodes: Sequence[int] | None = None, layers: str | None = None,
    serving: ServingWish = ANY_SERVING, aim: str = DEFAULT_AIM, on_progress: ProgressCallback | None = None,
    origin: Origin = UNKNOWN,
) -> DeploymentRecord:  # fmt: skip
    """Deploy a model, and have Ray bring as many agents as its plan needs where those that are there do not suffice.

    Args:
        most: Ray nodes that may have an agent then.
    """
    ray = controller.launchers.ray
    wish = ray.wish or RayWish(0)
    while True:
        try:
            await controller.plan(model, nodes=nodes, layers=layers, serving=serving, aim=aim)
            break
        except PlacementError as lacking:
            if wish.nodes >= most:
                raise PlacementError(
                    f"{lacking.message} Ray has brought {wish.nodes} agents, and may bring no more than {most}.",
                    lacking.advice,
                ) from lacking
        wish = msgspec.structs.replace(wish, nodes=wish.nodes + 1)
        await launch(controller, wish, on_progress, origin)
    return await controller.deploy(
        model, nodes=nodes, layers=layers, serving=serving, aim=aim, on_progress=on_progress, origin=origin
    )
