"""The board in words: what cards say, and what someone hears who cannot see the picture."""

from __future__ import annotations

from collections.abc import Sequence

from app.cluster.node_state import ANSWERING, NodeState
from app.figures import duration, layers, size_text
from app.progress import progress_words
from app.ui.board.state.lanes import BlockKind, LaneSnapshot
from app.ui.snapshots import NodeSnapshot


def state_text(view: NodeSnapshot) -> str:
    """State and link: up · 2.0 ms."""
    parts = [view.state.value]
    if view.rtt is not None and view.state in ANSWERING:
        parts.append(duration(view.rtt))
    if view.reason and view.state in (NodeState.DOWN, NodeState.FROZEN, NodeState.YIELDING):
        parts.append(view.reason)
    return " · ".join(parts)


def caption(lane: LaneSnapshot) -> str:
    """How much of the memory is taken, or what is missing."""
    if lane.shortage:
        return f"{size_text(lane.shortage)} missing: needs {size_text(taken(lane))} of {size_text(lane.budget)}"
    if not lane.blocks and taken(lane) == 0:
        return f"{size_text(lane.budget)} for layers"
    return f"{size_text(taken(lane))} of {size_text(lane.budget)}"


def taken(lane: LaneSnapshot) -> int:
    """Bytes on the node: the draft's and the others'."""
    return max(sum(block.memory for block in lane.blocks), lane.budget + lane.shortage - max(0, lane.free), 0)


def lane_text(lane: LaneSnapshot) -> str:
    """A node and what it holds, as a sentence."""
    parts = []
    for block in lane.blocks:
        if block.kind is BlockKind.REPLICA:
            parts.append(f"{layers(block.start, block.end)} once more, as a replica ({size_text(block.memory)})")
        elif block.kind is BlockKind.OTHER:
            parts.append(f"{size_text(block.memory)} for {block.label}")
        else:
            state = "loaded" if block.kind is BlockKind.DEPLOYED else "proposed"
            parts.append(
                f"{layers(block.start, block.end)} of {block.label} ({state}, {size_text(block.memory)}"
                f"{', slower than it might be' if block.slower else ''})"
            )
    holds = ", ".join(parts) or "no layers"
    end = f"{size_text(lane.shortage)} missing" if lane.shortage else f"{size_text(max(0, lane.free))} free"
    state = "" if lane.node.state is NodeState.UP else f" ({lane.node.state.value})"
    progress = f", {progress_words(lane.progress)}" if lane.progress is not None else ""
    return f"{lane.node.name}{state}: {holds}, {end}{progress}."


def board_text(lanes: Sequence[LaneSnapshot], model: str | None) -> str:
    """The whole board."""
    if not lanes:
        return "There are no nodes yet."
    head = f"Model {model}." if model else "No model is chosen."
    return " ".join([head, *(lane_text(lane) for lane in lanes)])
