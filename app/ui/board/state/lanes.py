"""What the board shows of each node: blocks of memory to scale, what is free, and what a drop would mean."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.children.work import NodeProgress
from app.cluster.node_state import unavailable
from app.figures import size_text
from app.ui.snapshots import NodeSnapshot

MIME_MODEL = "application/x-shardboard-model"
"""A model's name, UTF-8."""
MIME_SHARD = "application/x-shardboard-shard"
"""The number of a shard in the draft's pipeline, ASCII."""
MAKE_ROOM = "Move other layers away first, or take a smaller context."


class BlockKind(StrEnum):
    DEPLOYED = "deployed"
    """Loaded as shown."""
    PROPOSED = "proposed"
    """In the draft and not loaded."""
    REPLICA = "replica"
    """Loaded once more: a replica's of the same model."""
    OTHER = "other"
    """Memory of another deployment."""


@dataclass(frozen=True, slots=True)
class Block:
    """Layers [start, end) in a node's memory."""

    kind: BlockKind
    stage: int | None
    """Its number in the draft's pipeline; None for other deployments."""
    start: int
    end: int
    weight_bytes: int
    kv_bytes: int
    label: str
    """The model's name."""
    slower: str = ""
    """What of its speed is lost, and why; empty when nothing is, or it is not loaded."""
    echoes: int | None = None
    """Of a replica the stage that it has once more."""

    @property
    def memory(self) -> int:
        return self.weight_bytes + self.kv_bytes


@dataclass(frozen=True, slots=True)
class LaneSnapshot:
    """One node with the draft on it."""

    node: NodeSnapshot
    budget: int
    free: int
    """After the draft and the other deployments."""
    blocks: tuple[Block, ...]
    shortage: int
    """Bytes missing; 0 when all fits."""
    available: bool
    """Whether it can take shards now."""
    progress: NodeProgress | None = None
    """How far deploying is there."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a drop would mean, in words."""

    allowed: bool
    text: str
    advice: str = ""
    """What to do where it is not allowed."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What the inspector shows: a stage of the draft, a node, or a model."""

    node_id: int | None = None
    stage: int | None = None
    model: str | None = None


def unavailable_because(view: NodeSnapshot) -> str:
    """Why a node cannot take shards now, as the rest of a sentence; empty when it can."""
    return unavailable(view.state, view.reason)


def fit(needed: int, free: int) -> Verdict:
    """Whether bytes fit, in words."""
    if needed > free:
        return Verdict(False, f"needs {size_text(needed)}, {size_text(max(0, free))} free", MAKE_ROOM)
    return Verdict(True, f"fits: {size_text(needed)} of {size_text(free)} free")
