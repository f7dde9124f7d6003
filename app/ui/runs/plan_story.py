"""Where a run ran and with what: its plan, its nodes and their memory, versions. As sections of facts."""

from __future__ import annotations

from app.figures import layers, short, size_text
from app.runs.run import Run
from app.runs.trace import DeploymentTrace, NodeFacts, NodeMemory, Origin, Plan, RequestTrace, StagePlan, Versions
from app.runs.ways import way_lines
from app.ui.runs.section import Section

_WAYS = {"window": "in the window", "command": "on the command line", "http": "over HTTP", "program": "from a program"}


def origin_text(origin: Origin) -> str:
    """laptop, over HTTP: openai-python 2.1 from 10.0.0.9"""
    way = _WAYS.get(origin.via, origin.via)
    who = f"{origin.user}, {way}" if origin.user else way
    return f"{who}: {origin.client}" if origin.client else who


def plan_sections(run: Run) -> tuple[Section, ...]:
    """Plan, nodes, model and versions, as far as they were recorded."""
    trace = run.trace
    sections = []
    if isinstance(trace, RequestTrace | DeploymentTrace):
        if trace.plan is not None:
            sections += [_plan(trace.plan), _stages(trace.plan)]
        memory = {each.node_id: each for each in trace.memory}
        sections += [_node(node, memory.get(node.node_id)) for node in trace.nodes]
        if trace.model is not None:
            model = trace.model
            sections.append(
                Section(
                    "Model",
                    (
                        ("Architecture", model.architecture),
                        ("Source", model.source),
                        ("Layers", str(model.layers)),
                        ("Parameters", f"{model.parameters:,}"),
                        ("Stored as", model.dtype),
                        ("Weights", short(model.content, 17) or "–"),
                    ),
                )
            )
    if trace is not None and trace.versions is not None:
        sections.append(_versions(trace.versions))
    return tuple(sections)


def _plan(plan: Plan) -> Section:
    return Section(
        "Plan",
        (
            ("Deployment", plan.deployment),
            ("Type", plan.dtype),
            ("Context", f"{plan.context:,} tokens"),
            ("KV memory for", f"{plan.kv_tokens:,} tokens"),
            ("Epoch", str(plan.epoch)),
            ("Plan hash", short(plan.plan_hash, 17)),
        ),
    )


def _stages(plan: Plan) -> Section:
    return Section(
        "Stages",
        tuple(
            (
                f"{stage.stage + 1} · {stage.node or f'node {stage.node_id}'}",
                f"{layers(stage.start, stage.end)}, {size_text(stage.weight_bytes)} of weights, "
                f"{size_text(stage.kv_bytes)} of KV cache{_ways(stage)}",
            )
            for stage in plan.stages
        ),
    )


def _ways(stage: StagePlan) -> str:
    """How it ran, a line for each way."""
    return "".join(f"\n{title}: {text}" for title, text in way_lines(stage.ways))


def _node(node: NodeFacts, memory: NodeMemory | None) -> Section:
    facts: list[tuple[str, str]] = [
        ("Address", node.address),
        ("Processor", node.cpu),
        ("Device", f"{node.device}, {node.threads} threads" if node.threads else node.device),
        ("System", node.system),
        ("Software", ", ".join(
            f"{name} {version}"
            for name, version in (("agent", node.software), ("torch", node.torch), ("transformers", node.transformers))
            if version
        )),
    ]  # fmt: skip
    if memory is not None:
        facts.append(
            ("Memory at the end", f"{size_text(memory.used)} of {size_text(memory.budget)} in layers, "
             f"{size_text(memory.process)} held by the agent's process{_believed(memory)}, "
             f"{size_text(memory.available)} free on the machine")
        )  # fmt: skip
    return Section(f"Node {node.name}", tuple((name, value) for name, value in facts if value))


def _believed(memory: NodeMemory) -> str:
    """Empty for a run that was written down before agents told."""
    if not memory.believed:
        return ""
    return f" ({size_text(memory.believed)} accounted for, {size_text(memory.agent)} by the agent itself)"


def _versions(versions: Versions) -> Section:
    return Section(
        "Versions of the controller",
        (
            ("Shardboard", f"{versions.shardboard}, wire {versions.wire}"),
            ("Python", versions.python),
            ("System", versions.system),
            ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(versions.packages.items()))),
        ),
    )
