"""Nodes that are in the registry and, by all that can be told, no machine's any more: named, and why. Pure.

Nothing is removed by being named here; whether a ghost goes is its user's to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from app.cluster.node_state import NOTHING, Heard
from app.figures import ago
from app.registry.records import NodeRecord

SILENT_DAYS = 7
"""A machine that was switched off over a weekend is no ghost."""


class GhostKind(StrEnum):
    """What makes a node a ghost; if several do, the first of these is named."""

    NEW_KEY = "new_key"
    """Another agent answers at its address."""
    DOUBLE = "double"
    """Its machine has come again as another node."""
    GONE = "gone"
    """The launcher that brought its agent has its machine no more."""
    SILENT = "silent"
    """Nothing was heard of it for `SILENT_DAYS`."""


@dataclass(frozen=True, slots=True)
class Ghost:
    """A node that will hardly come back."""

    node_id: int
    kind: GhostKind
    problem: str
    """What is wrong with it, in a sentence."""
    advice: str
    """What to do about it, in a sentence or two; commands as they are typed."""


def ghosts_of(nodes: Sequence[NodeRecord], heard: Mapping[int, Heard], now: datetime | None = None) -> list[Ghost]:
    """All ghosts among `nodes`, in their order.

    Args:
        heard: what is known of each node's agent, by the node's id; a node without an entry is not judged.
    """
    found = (ghost_of(node, nodes, heard, now) for node in nodes)
    return [each for each in found if each is not None]


def ghost_of(
    node: NodeRecord, nodes: Sequence[NodeRecord], heard: Mapping[int, Heard], now: datetime | None = None
) -> Ghost | None:
    """Why `node` is a ghost among `nodes`; None while it answers, or may yet."""
    told = heard.get(node.id, NOTHING)
    if told.alive is not False or told.starting:
        return None
    remove = f"node remove {node.id}"
    if told.trouble == "wrong_key":
        return Ghost(
            node.id, GhostKind.NEW_KEY,
            f"What listens at {node.address.removeprefix('tcp://')} has not the key of {node.hostname}: another agent, "
            "or the same one set up anew.",
            f"If that was you, remove this node ({remove}) and add the agent with its new key. "
            "If it was not, find out who listens there before you do.",
        )  # fmt: skip
    if node.local_pid is not None:  # where it was launched its agent can be started again, however long that is ago
        return None
    last = node.last_heartbeat or node.created_at
    if (twin := _twin(node, last, nodes, heard)) is not None:
        return Ghost(
            node.id, GhostKind.DOUBLE,
            f"{node.hostname} seems to have come again as node {twin.id} "
            f"({twin.address.removeprefix('tcp://')}), which was added since this one was last heard of.",
            f"Remove this one ({remove}); node {twin.id} stays.",
        )  # fmt: skip
    if told.gone:
        return Ghost(
            node.id, GhostKind.GONE, told.gone,
            f"Remove it ({remove}); what comes in its place is another node.",
        )  # fmt: skip
    if ((now or datetime.now(UTC)) - last).days >= SILENT_DAYS:
        since = f"was last heard of {ago(last, now)}"
        if node.last_heartbeat is None:
            since = f"was added {ago(last, now)} and has not been heard of since"
        return Ghost(
            node.id, GhostKind.SILENT, f"{node.hostname} {since}.",
            f"Start its agent, or remove the node if the machine does not come back ({remove}).",
        )  # fmt: skip
    return None


def _twin(
    node: NodeRecord, last: datetime, nodes: Sequence[NodeRecord], heard: Mapping[int, Heard]
) -> NodeRecord | None:
    """The node as which this one's machine has come again: same name, answers, and was added after this one fell
    silent. Several agents of one machine have one name, too, but they were there at the same time."""
    return next(
        (
            other
            for other in nodes
            if other.id != node.id
            and other.hostname == node.hostname
            and other.local_pid is None
            and heard.get(other.id, NOTHING).alive
            and other.created_at > last
        ),
        None,
    )
