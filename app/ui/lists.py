"""What the window reads of registry, library and launchers when they have changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.registry.records import (
    ComparisonRecord,
    DeploymentStatus,
    LinkRecord,
    MeasurementRecord,
    NodeRecord,
    ShardRecord,
)
from app.ui.snapshots import DeploymentSnapshot

if TYPE_CHECKING:
    from app.controller import Controller
    from app.launchers.launcher import Brought
    from app.models.description import ModelDescription
    from app.registry import Registry


@dataclass(frozen=True, slots=True)
class Lists:
    """What was read from registry and library; None for what was not asked for."""

    nodes: tuple[NodeRecord, ...] | None = None
    models: tuple[ModelDescription, ...] | None = None
    deployments: tuple[DeploymentSnapshot, ...] | None = None
    measurements: dict[str, tuple[MeasurementRecord, ...]] | None = None
    links: tuple[LinkRecord, ...] | None = None
    comparisons: tuple[ComparisonRecord, ...] | None = None
    brought: dict[int, Brought] = field(default_factory=dict)
    """Given with the nodes: of those that a launcher has brought, which, by the node's id."""


async def read_lists(controller: Controller, wanted: frozenset[str]) -> Lists:
    """On the controller's loop; the reading itself runs in a thread."""

    brought = await controller.launchers.brought() if "node" in wanted else {}

    def read(registry: Registry) -> Lists:
        views = None
        if "deployment" in wanted:
            shards: dict[str, list[ShardRecord]] = {}
            for shard in registry.shards.list():
                if shard.deployment_id is not None:
                    shards.setdefault(shard.deployment_id, []).append(shard)
            live = (DeploymentStatus.READY, DeploymentStatus.LOADING)
            records = [record for record in registry.deployments.list() if record.status in live]
            views = tuple(
                DeploymentSnapshot(
                    record, tuple(sorted(shards.get(record.id, []), key=lambda shard: shard.start_layer))
                )
                for record in reversed(records)
            )
        return Lists(
            nodes=tuple(registry.nodes.list()) if "node" in wanted else None,
            models=controller.library.list() if "model" in wanted else None,
            deployments=views,
            measurements=_measured(registry) if "measurement" in wanted else None,
            links=tuple(registry.links.list()) if "link" in wanted else None,
            comparisons=tuple(registry.comparisons.list()) if "comparison" in wanted else None,
            brought=brought,
        )

    return await controller.registry.call(read)


def _measured(registry: Registry) -> dict[str, tuple[MeasurementRecord, ...]]:
    from app.runs.measured import newest_of_each

    names = {model.id: model.name for model in registry.models.list()}
    found: dict[str, list[MeasurementRecord]] = {}
    for record in registry.measurements.list():
        found.setdefault(names.get(record.model_id, ""), []).append(record)
    return {name: tuple(newest_of_each(records)) for name, records in found.items()}
