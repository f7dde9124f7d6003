"""What the event log tells of deployments, and how the registry keeps their ends."""

from __future__ import annotations

from collections.abc import Sequence

from app.inference.deployer import Deployed
from app.registry import DeploymentRecord, DeploymentStatus, EventLevel, Registry, ShardRecord
from app.runs.ways import larger_text, lost_text


def note_deployed(registry: Registry, deployed: Deployed) -> None:
    """What was possible or asked for on a stage and could not be is told too, once for each stage."""
    record, stages = deployed.record, deployed.pipeline.stages
    where = ", ".join(f"{stage.start}-{stage.end - 1} on {stage.node_name}" for stage in stages)
    note(registry, EventLevel.INFO, f"{record.model_name} is deployed: layers {where}.", record)
    for stage in stages:
        if missing := lost_text(stage.ways):
            sentence = (
                f"{record.model_name} runs slower than it might on {stage.node_name}, layers "
                f"{stage.start}-{stage.end - 1}: {missing.rstrip('.')}. Its answers are not touched by this."
            )
            note(registry, EventLevel.WARNING, sentence, record, stage.node_id)
        if why := larger_text(stage.ways):
            sentence = (
                f"{record.model_name} keeps keys and values as they are computed on {stage.node_name}, layers "
                f"{stage.start}-{stage.end - 1}, not in int8: {why.rstrip('.')}. They take more memory so; its answers "
                "are not touched by this."
            )
            note(registry, EventLevel.WARNING, sentence, record, stage.node_id)


def note_undeployed(
    registry: Registry, record: DeploymentRecord, shards: Sequence[ShardRecord], told: bool
) -> DeploymentRecord:
    for shard in shards:
        registry.shards.update(shard.id, is_loaded=False)
    if told:
        note(registry, EventLevel.INFO, f"{record.model_name} is not deployed any more.", record)
    return registry.deployments.update(record.id, status=DeploymentStatus.UNLOADED)


def note(
    registry: Registry, level: EventLevel, message: str, record: DeploymentRecord, node_id: int | None = None
) -> None:
    registry.events.add(level, "deployments", message, deployment_id=record.id, node_id=node_id)
