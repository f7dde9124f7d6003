"""Which layers of which model lie where."""

from __future__ import annotations

from typing import TypedDict, Unpack

from app.registry.conditions import matching
from app.registry.records import ShardRecord
from app.registry.table import Row, Table
from app.registry.tables import ModelShard


class ShardChanges(TypedDict, total=False):
    """What `Shards.update` can change."""

    node_id: int | None
    deployment_id: str | None
    start_layer: int
    end_layer: int
    is_loaded: bool
    path: str | None


class Shards(Table[ShardRecord]):
    model = ModelShard
    noun = "shard"
    order = ("model_name", "deployment", "shard_id", "id")

    def add(
        self,
        *,
        model_name: str,
        shard_id: int,
        start_layer: int,
        end_layer: int,
        node_id: int | None = None,
        deployment_id: str | None = None,
        is_loaded: bool = False,
        path: str | None = None,
    ) -> ShardRecord:
        """Add a shard of layers [start_layer, end_layer). Raises RegistryError when the node or deployment is gone."""
        return self._add(
            {
                "node": node_id,
                "deployment": deployment_id,
                "model_name": model_name,
                "shard_id": shard_id,
                "start_layer": start_layer,
                "end_layer": end_layer,
                "is_loaded": is_loaded,
                "path": path,
            }
        )

    def get(self, id: int) -> ShardRecord:
        return self._get(id)

    def list(
        self, *, node_id: int | None = None, deployment_id: str | None = None, model_name: str | None = None
    ) -> list[ShardRecord]:
        """Shards by model, deployment and number, of which all that is given holds."""
        return self._list(
            matching(ModelShard.node, node_id),
            matching(ModelShard.deployment, deployment_id),
            matching(ModelShard.model_name, model_name),
        )

    def update(self, id: int, **changes: Unpack[ShardChanges]) -> ShardRecord:
        return self._update(id, {name.removesuffix("_id"): value for name, value in changes.items()})

    def remove(self, id: int) -> ShardRecord:
        """Remove a shard from the registry and return what it was. Its files stay."""
        return self._remove(id)

    def _record(self, row: Row) -> ShardRecord:
        node, deployment = row.pop("node"), row.pop("deployment")
        return ShardRecord(node_id=node, deployment_id=deployment, **row)
