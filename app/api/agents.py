"""Which agents may be started and ended over HTTP: none by the SSH keys of the controller's user."""

from __future__ import annotations

from app.controller import Controller
from app.errors import Conflict, NodeError
from app.registry import JobRecord, NodeRecord


async def brought_node(controller: Controller, node_id: int) -> NodeRecord:
    """A node whose agent a launcher has brought, other than by SSH.

    Raises Conflict for another one, RegistryError for none.
    """
    node = await controller.registry.call(lambda known: known.nodes.get(node_id))
    try:
        launcher = await controller.launchers.of(node)
    except NodeError as error:
        raise Conflict(error.message, error.advice) from error
    if launcher.name == "ssh":
        raise Conflict(
            f"The agent of {node.hostname} was put there over SSH by the keys of the controller's user, which are not "
            "used for who asks over HTTP.",
            f"Start, stop or update it in the window, or by a command: node start|stop|update {node.id}",
        )
    return node


async def check_retry(controller: Controller, record: JobRecord) -> None:
    """Of a job that is to begin again. Raises Conflict where it goes by SSH, RegistryError for a node that is gone."""
    if record.kind == "ssh":
        raise Conflict(
            f"Job {record.id} goes by the SSH keys of the controller's user, which are not used for who asks over "
            "HTTP.",
            "Begin it again in the window, or by a command: node add --ssh",
        )
    nodes = record.details.get("nodes")
    if record.kind == "update" and isinstance(nodes, list):
        for node in nodes:
            await brought_node(controller, int(node))
