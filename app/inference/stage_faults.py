"""What stages say went wrong, as errors for the user."""

from __future__ import annotations

from app.errors import NodeError
from app.inference.stages import PipelineStage
from worker_agent.wire.messages import StageFault

BETWEEN_AGENTS = frozenset({"link_lost", "wrong_key"})
"""Kinds of faults that concern the line from one agent to the next. The controller reaches both, with the same keys: so
another key is a line that breaks in mid-handshake, or somebody else's machine that has the same address there."""


def stage_error(fault: StageFault, stage: PipelineStage, dtype: str) -> NodeError:
    """A stage's fault, with the node and its layers named, and what to do.

    Args:
        dtype: what the deployment computes in.
    """
    return NodeError(
        f"{stage.node_name} (layers {stage.start}-{stage.end - 1}) failed: {fault.message.rstrip('.')}.",
        _advice(fault.kind, dtype),
        kind=fault.kind,
        node=stage.node_name,
    )


def _advice(kind: str, dtype: str) -> str:
    """What to do about a stage's fault, besides what the stage itself says."""
    if kind != "numbers":
        return "The agent's log has the details. The next request starts the deployment anew."
    if dtype == "float32":
        return "Other requests go on."
    wider = "bfloat16 or float32" if dtype == "float16" else "float32"
    return f"Other requests go on. For {wider} undeploy the model, then deploy it again with --dtype."
