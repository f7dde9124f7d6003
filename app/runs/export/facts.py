"""What a report says of any run besides its times: who asked, with what software, on which nodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct

from app.figures import size_text
from app.runs.run import Run
from app.runs.trace import DeploymentTrace, JobTrace, NodeFacts, NodeMemory, RequestTrace, Versions

Facts = tuple[tuple[str, str], ...]
"""Names and values."""


class Table(Struct, frozen=True):
    """A table of texts."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def moment(at: datetime | None) -> str:
    """In UTC: whoever reads a report may be anywhere."""
    return "–" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


def overview_facts(run: Run) -> Facts:
    lines = [
        ("Kind", run.kind),
        ("Id", run.id),
        ("Model", run.model or "–"),
        ("Status", run.status),
        ("Asked", f"{moment(run.created_at)}, {origin_text(run)}"),
        ("Started", moment(run.started_at)),
        ("Ended", moment(run.completed_at)),
    ]
    if run.request is not None:
        lines += [("Ended by", run.request.finish_reason or "–"), ("Deployment", run.request.deployment_id or "–")]
    return tuple(lines)


def origin_text(run: Run) -> str:
    """By whom, in what way, from where."""
    origin = run.origin
    ways = {"window": "in the window", "command": "on the command line", "http": "over HTTP", "program": "by a program"}
    user = f"by {origin.user} " if origin.user else ""
    client = f" ({origin.client})" if origin.client else ""
    return f"{user}{ways[origin.via]}{client}"


def software_facts(
    versions: Versions | None, trace: RequestTrace | DeploymentTrace | JobTrace
) -> list[tuple[str, Facts]]:
    found: list[tuple[str, Facts]] = []
    if not isinstance(trace, JobTrace) and trace.model is not None:
        model = trace.model
        found.append(("Model", (
            ("Name", model.name), ("Architecture", model.architecture), ("Source", model.source),
            ("Layers", f"{model.layers}"), ("Parameters", f"{model.parameters:,}"), ("Stored as", model.dtype),
            ("Content", model.content or "–"),
        )))  # fmt: skip
    if versions is not None:
        found.append(("Versions", (
            ("Shardboard", versions.shardboard), ("Python", versions.python), ("System", versions.system),
            ("Wire", f"{versions.wire}"), *sorted(versions.packages.items()),
        )))  # fmt: skip
    return found


def node_table(nodes: Sequence[NodeFacts]) -> Table | None:
    if not nodes:
        return None
    columns = ("Node", "Address", "Processor", "Device", "Threads", "System", "Agent", "torch", "transformers")
    rows = (
        (
            _named(node, nodes), node.address.removeprefix("tcp://"), node.cpu, node.device,
            f"{node.threads or '–'}", node.system, node.software, node.torch, node.transformers,
        )
        for node in nodes
    )  # fmt: skip
    return Table(columns, tuple(tuple(cell or "–" for cell in row) for row in rows))


def _named(node: NodeFacts, nodes: Sequence[NodeFacts]) -> str:
    """Its name; with its number where another one has the same."""
    same = sum(other.name == node.name for other in nodes)
    return node.name if same == 1 else f"{node.name} ({node.node_id})"


def memory_table(memory: Sequence[NodeMemory], nodes: Sequence[NodeFacts]) -> Table | None:
    if not memory:
        return None
    facts = {node.node_id: node for node in nodes}
    rows = []
    for each in memory:
        node = facts.get(each.node_id)
        name = _named(node, nodes) if node is not None else f"node {each.node_id}"
        total = size_text(node.memory_total) if node is not None and node.memory_total else "–"
        told = (size_text(each.believed), size_text(each.agent)) if each.believed else ("–", "–")
        of_stages = (size_text(each.used), size_text(each.budget))
        rows.append((name, size_text(each.process), *told, *of_stages, size_text(each.available), total))
    columns = (
        "Node", "Agent's process", "Accounted for", "Agent itself", "Used by stages", "Budget", "Available", "Machine"
    )  # fmt: skip
    return Table(columns, tuple(rows))


def value_text(value: object) -> str:
    if value is None or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
