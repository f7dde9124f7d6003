"""Which nodes are one machine: their agents share its cores, and messages between them cross no network."""

from __future__ import annotations

from app.registry import NodeRecord


def machine_of(node: NodeRecord) -> str:
    """A name that nodes on one machine have in common."""
    return "this machine" if node.local_pid is not None or is_loopback(node) else node.ip_address


def is_loopback(node: NodeRecord) -> bool:
    """Whether the node's address can be reached from its own machine alone."""
    return node.ip_address.startswith("127.") or node.ip_address in ("::1", "localhost")
