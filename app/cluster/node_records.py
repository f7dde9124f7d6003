"""What the registry is told of nodes: who they are, what they have, what happened to them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from app.cluster.health import NodeDown, NodeFrozen, NodeMemoryJudged, NodeUp, NodeYields
from app.registry import EventLevel, NodeRecord, Registry
from worker_agent.wire.links import Endpoint
from worker_agent.wire.messages import Welcome


def register(registry: Registry, endpoint: Endpoint, key: str, welcome: Welcome, local_pid: int | None) -> NodeRecord:
    """Enter an agent, or where it is now if its key is known. Reads and writes the registry, as all here."""
    nodes = registry.nodes
    known = next((node for node in nodes.list() if node.public_key == key), None)
    if known is None:
        return nodes.add(
            hostname=welcome.hostname,
            ip_address=endpoint.host,
            port=endpoint.port,
            public_key=key,
            agent_id=welcome.agent,
            is_active=True,
            capacities=capacities_of(welcome),
            local_pid=local_pid,
        )
    return nodes.update(
        known.id,
        hostname=welcome.hostname,
        ip_address=endpoint.host,
        port=endpoint.port,
        agent_id=welcome.agent,
        is_active=True,
        capacities=capacities_of(welcome, known.capacities),
        local_pid=known.local_pid if local_pid is None else local_pid,
    )


def note_capacities(registry: Registry, node: int, welcome: Welcome) -> NodeRecord:
    """What a node says it has."""
    known = registry.nodes.get(node).capacities
    return registry.nodes.update(node, capacities=capacities_of(welcome, known))


def note_stopped(registry: Registry, node: int) -> NodeRecord:
    """That a node's agent was ended on purpose."""
    registry.events.add(EventLevel.INFO, "nodes", "The agent was stopped.", node_id=node)
    return registry.nodes.update(node, is_active=False)


def describe(event: NodeUp | NodeDown | NodeFrozen | NodeMemoryJudged | NodeYields) -> tuple[EventLevel, str]:
    """How bad it is, and what happened as a sentence."""
    match event:
        case NodeUp(restarted=True):
            return EventLevel.WARNING, "The agent was started anew; what it held is gone."
        case NodeUp():
            return EventLevel.INFO, "The agent is there."
        case NodeDown():
            return EventLevel.ERROR, event.reason
        case NodeFrozen():
            return EventLevel.ERROR, event.reason
        case NodeYields(reason=""):
            return EventLevel.INFO, "Its owner does not need it any more: it takes new work again."
        case NodeYields():
            return EventLevel.WARNING, event.reason
        case NodeMemoryJudged():
            return EventLevel.WARNING if event.differs else EventLevel.INFO, event.text


def capacities_of(welcome: Welcome, known: Mapping[str, object] | None = None) -> dict[str, object]:
    """What the registry keeps of an agent's Welcome: what it is, not what it holds at the moment.

    An agent that has not measured its speed yet keeps what is `known` of it from before.
    """
    fields = (
        "system",
        "software",
        "numerics",
        "cpu_name",
        "cpu_count",
        "memory_total",
        "memory_budget",
        "memory_base",
        "disk_free",
        "gpus",
        "speeds",
        "disk",
    )
    told = {name: msgspec.to_builtins(getattr(welcome, name)) for name in fields}
    if not welcome.speeds and known is not None:
        told["speeds"] = known.get("speeds", ())
    before = (known or {}).get("disk")
    if isinstance(before, Mapping):  # what is in memory today tells nothing of the disk, which was measured before
        now = told["disk"] or {}
        told["disk"] = {**before, **{name: value for name, value in now.items() if value is not None}}
    return told
