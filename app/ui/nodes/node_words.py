"""How a node is put into words: its state, address, memory, layers; and all of it as text to copy."""

from __future__ import annotations

from collections.abc import Sequence

from app.cluster.node_state import ANSWERING, NodeState
from app.figures import amount_text, held_text, layers, size_text
from app.ui.snapshots import DeploymentSnapshot, NodeSnapshot

TROUBLED = frozenset({NodeState.DOWN, NodeState.FROZEN, NodeState.YIELDING, NodeState.STOPPED})
"""States whose reason is worth a place in the row."""


def address_of(view: NodeSnapshot) -> str:
    """host:port"""
    return view.record.address.removeprefix("tcp://")


def shards_text(node: int, deployments: Sequence[DeploymentSnapshot]) -> str:
    """layers 0–14 of SmolLM2; layers 0–3 of made-up-8b"""
    return "; ".join(
        f"{layers(shard.start_layer, shard.end_layer)} of {shard.model_name}"
        for view in deployments
        for shard in view.shards
        if shard.node_id == node
    )


def models_of(deployments: Sequence[DeploymentSnapshot]) -> str:
    """The models of deployments as a list in a sentence: SmolLM2 and made-up-8b."""
    return listed(list(dict.fromkeys(view.record.model_name for view in deployments)))


def listed(names: Sequence[str]) -> str:
    """a, b and c"""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def gpu_text(view: NodeSnapshot) -> str:
    """45 %, 3.1 of 24 GB, 210 W; empty without a GPU."""
    report = view.report
    if report is None or not report.gpus:
        return ""
    total = sum(gpu.memory_total for gpu in report.gpus)
    used = total - sum(gpu.memory_free for gpu in report.gpus)
    loads = [gpu.load for gpu in report.gpus if gpu.load is not None]
    memory = memory_text(used, total)
    watts = [gpu.power for gpu in report.gpus if gpu.power is not None]
    return ", ".join([*([f"{max(loads):.0f} %"] if loads else []), memory, *([f"{sum(watts):.0f} W"] if watts else [])])


def memory_text(used: int | None, budget: int) -> str:
    """1.2 of 4 GB; a dash for what is not known."""
    if not budget:
        return "–"
    return f"– of {size_text(budget)}" if used is None else amount_text(used, budget)


def process_text(view: NodeSnapshot) -> str:
    """What the agent's process takes; what the agent itself takes besides stages while it is away."""
    own = view.known.agent_memory
    if view.report is None or view.state not in ANSWERING:
        return f"The agent itself takes {size_text(own)} besides" if own else ""
    return f"Its process: {held_text(view.report.process_memory, view.report.memory_held, view.report.memory_base)}"


def details_text(view: NodeSnapshot, deployments: Sequence[DeploymentSnapshot]) -> str:
    """All that is known of a node, to be copied."""
    record = view.record
    lines = [
        f"name: {record.hostname}",
        f"address: {address_of(view)}",
        f"state: {view.state}{f' ({view.reason})' if view.reason else ''}",
        f"agent: {record.agent_id}",
        f"public key: {record.public_key}",
        f"processor: {view.chip}",
        f"memory for stages: {size_text(view.memory_budget)}",
        *([process_text(view)] if process_text(view) else []),
        f"shards: {shards_text(record.id, deployments) or 'none'}",
    ]
    if view.is_here:
        lines.append(f"process here: {record.local_pid}")
    lines += [f"{name}: {record.capacities[name]}" for name in ("system", "software") if record.capacities.get(name)]
    return "\n".join(lines)
