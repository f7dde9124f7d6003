"""What routes share, by its type, and what they read of the registry."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from app.api.views import DeploymentView, NodeView
from app.cluster.ghosts import ghosts_of
from app.controller import Controller
from app.registry import DeploymentStatus

MOST_ID = 2**63 - 1


def _controller(request: Request) -> Controller:
    controller: Controller = request.app.state.controller
    return controller


TheController = Annotated[Controller, Depends(_controller)]
Number = Annotated[int, Path(ge=1, le=MOST_ID)]


async def node_views(controller: Controller) -> list[NodeView]:
    """All nodes. None is asked: the last beat of each tells."""
    records = await controller.registry.call(lambda known: known.nodes.list())
    views = [NodeView.of(controller, record) for record in records]
    heard = {record.id: controller.nodes.heard(record.id) for record in records}
    ghosts = {ghost.node_id: f"{ghost.problem} {ghost.advice}" for ghost in ghosts_of(records, heard)}
    return [view.model_copy(update={"ghost": ghosts.get(view.id, "")}) for view in views]


async def deployment_views(controller: Controller, *, every: bool = False) -> list[DeploymentView]:
    """Deployments, the newest first; unless `every`, without those that failed or were unloaded."""
    wanted = None if every else (DeploymentStatus.LOADING, DeploymentStatus.READY)

    records, shards, nodes = await controller.registry.call(
        lambda known: (known.deployments.list(status=wanted), known.shards.list(), known.nodes.list())
    )
    names = {node.id: node.hostname for node in nodes}
    held, mending = controller.nodes.stage, controller.deployments.mender.doing
    return [DeploymentView.of(record, shards, names, held, mending) for record in reversed(records)]
