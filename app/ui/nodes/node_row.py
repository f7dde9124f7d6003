"""One row of the table of nodes: every cell's text, sort key and tooltip, made once for each change of the node."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

from app.cluster.ghosts import Ghost
from app.cluster.node_state import ANSWERING, NodeState
from app.figures import ago, clock, duration, size_text
from app.ui.cluster import Sample
from app.ui.looks import rank
from app.ui.nodes.node_words import TROUBLED, address_of, gpu_text, memory_text, process_text, shards_text
from app.ui.snapshots import DeploymentSnapshot, NodeSnapshot


class NodeColumn(IntEnum):
    NAME = 0
    ADDRESS = 1
    STATE = 2
    HEARTBEAT = 3
    CPU = 4
    MEMORY = 5
    GPU = 6
    TOKENS = 7
    ROUND_TRIP = 8
    SHARDS = 9


SortKey = str | float | int


@dataclass(frozen=True, slots=True)
class NodeCell:
    """What one cell shows, what it is sorted by, and what its tooltip says."""

    text: str
    sort: SortKey
    tip: str = ""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as the table shows it. Cells are in the order of NodeColumn."""

    id: int
    state: NodeState
    reason: str
    memory_used: int
    memory_budget: int
    memory_problem: str
    heartbeat: datetime | None
    cells: tuple[NodeCell, ...]
    words: str
    """What the filter looks in, folded."""


def row_of(
    view: NodeSnapshot, deployments: tuple[DeploymentSnapshot, ...], latest: Sample | None, now: datetime | None = None,
    ghost: Ghost | None = None,
) -> NodeRow:  # fmt: skip
    """Put a node into cells.

    Args:
        deployments: all that are known; those without a shard on the node are passed over.
        latest: the node's newest sample.
        ghost: why it will hardly come back, where that is so.
    """
    alive = view.state in ANSWERING
    report = view.report if alive else None
    reason = view.reason if view.state in TROUBLED else ""
    if ghost is not None:
        reason = f"A ghost. {ghost.problem} {ghost.advice}"
    heard = heartbeat_of(view, latest)
    shards = shards_text(view.id, deployments)
    used, budget = (report.memory_used if report else 0), view.memory_budget
    tokens = latest.tokens_per_second if alive and latest is not None else None
    rtt = view.rtt if alive else None
    gpu = gpu_text(view) if report else ""
    cells = (
        NodeCell(view.name, view.name.casefold(), f"{view.name}\n{view.chip}"),
        NodeCell(address_of(view), _address_key(view), address_of(view) + ("\nStarted here" if view.is_here else "")),
        NodeCell(
            view.state.capitalize(), rank(view.state), f"{view.state.capitalize()}. {reason or view.state.meaning}"
        ),
        heartbeat_cell(heard, now),
        NodeCell(f"{report.cpu_percent:.0f} %", report.cpu_percent, f"{report.cpu_percent:.1f} % of all cores")
        if report
        else _UNKNOWN,
        NodeCell(
            memory_text(used if report else None, budget),
            used,
            f"Stages take {size_text(used)} of the {size_text(budget)} they may take"
            + (f"\nThe machine has {size_text(report.memory_available)} free" if report else "")
            + (f"\n{about}" if (about := process_text(view)) else "")
            + (f"\n{view.memory_problem}" if view.memory_problem else ""),
        ),
        NodeCell(gpu, _gpu_key(view), gpu) if gpu else _UNKNOWN,
        NodeCell(f"{tokens:.1f}" if tokens else "0", tokens, "Tokens per second through this node")
        if tokens is not None
        else _UNKNOWN,
        NodeCell(duration(rtt), rtt, "From the question to the answer of a health beat")
        if rtt is not None
        else _UNKNOWN,
        NodeCell(shards or "–", shards.casefold(), shards.replace("; ", "\n")),
    )
    words = " ".join((view.name, address_of(view), view.state, reason, shards, view.chip)).casefold()
    problem = view.memory_problem if report else ""
    return NodeRow(view.id, view.state, reason, used, budget, problem, heard, cells, words)


def heartbeat_of(view: NodeSnapshot, latest: Sample | None) -> datetime | None:
    """When the node was last heard of: by the window, else by the registry."""
    seen = datetime.fromtimestamp(latest.at, UTC) if latest is not None else None
    known = view.record.last_heartbeat
    return max((moment for moment in (seen, known) if moment is not None), default=None)


def heartbeat_cell(heard: datetime | None, now: datetime | None = None) -> NodeCell:
    return NodeCell(ago(heard, now), heard.timestamp() if heard else 0.0, clock(heard) if heard else "Never heard of")


_UNKNOWN = NodeCell("–", -1.0)
"""Sorts before everything that is known."""


def _address_key(view: NodeSnapshot) -> str:
    """So that 10.0.0.9 comes before 10.0.0.10."""
    host = ".".join(part.rjust(3, "0") if part.isdigit() else part for part in view.record.ip_address.split("."))
    return f"{host}:{view.record.port:05}"


def _gpu_key(view: NodeSnapshot) -> float:
    loads = [gpu.load for gpu in view.report.gpus if gpu.load is not None] if view.report else []
    return max(loads, default=0.0)
