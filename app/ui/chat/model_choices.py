"""What a chat can talk to: deployed models first, then those that one node could hold and that are loaded on demand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from PySide6.QtCore import QObject, Qt, Slot

from app.cluster.node_state import NodeState
from app.models.description import ModelDescription
from app.serving import ServingWish
from app.sharding.capacity import KnownNode, node_capacities
from app.sharding.placement import whole_on_one
from app.ui import make
from app.ui.cluster import Cluster
from app.ui.list_delegate import Index
from app.ui.list_model import ListModel
from app.ui.snapshots import DeploymentSnapshot, NodeSnapshot

COALESCE_MILLISECONDS = 500


class ChoiceRole(IntEnum):
    NAME = Qt.ItemDataRole.UserRole + 1
    NOTE = Qt.ItemDataRole.UserRole + 2
    READY = Qt.ItemDataRole.UserRole + 3


@dataclass(frozen=True)
class Choice:
    """A model, and what asking it would mean."""

    name: str
    note: str
    ready: bool
    usable: bool = True
    """False: it has no deployment and no node can hold it alone."""


def choices(
    models: Iterable[ModelDescription], deployments: Iterable[DeploymentSnapshot], nodes: Iterable[NodeSnapshot]
) -> tuple[Choice, ...]:
    """Pure: what can be asked now, the surest first."""
    nodes = tuple(nodes)
    names = {node.id: node.name for node in nodes}
    deployed = {view.record.model_name: view for view in reversed(tuple(deployments)) if view.is_ready}
    ready = [Choice(name, f"Deployed on {_where(view, names)}", True) for name, view in deployed.items()]
    up = [node.known for node in nodes if node.state is NodeState.UP]
    others = [_undeployed(model, up) for model in models if model.name not in deployed and model.has_tokenizer]
    return (
        *sorted(ready, key=lambda choice: choice.name.lower()),
        *sorted(others, key=lambda choice: (not choice.usable, choice.name.lower())),
    )


def _where(view: DeploymentSnapshot, names: dict[int, str]) -> str:
    used = [names.get(shard.node_id, "a node that is gone") for shard in view.shards if shard.node_id is not None]
    return " → ".join(used) if 0 < len(used) <= 3 else f"{len(used)} nodes"


def _undeployed(model: ModelDescription, up: Sequence[KnownNode]) -> Choice:
    if not up:
        return Choice(model.name, "No node is up to load it", False)
    on_demand = ServingWish().completed(model.dtype, model.max_context)
    placement = whole_on_one(model, node_capacities(up, on_demand.dtype), on_demand)
    if placement is None:
        return Choice(model.name, "Too large for one node: deploy it on the Board first", False, usable=False)
    return Choice(model.name, f"Loads on {placement.stages[0].node.name} when you ask", False)


class ModelChoices(ListModel[Choice]):
    """The choices as a model for the picker. Figures of nodes are looked at twice a second at most."""

    def __init__(self, cluster: Cluster, parent: QObject | None = None) -> None:
        super().__init__((), parent)
        self._cluster = cluster
        self._timer = make.timer(self, self.refresh, COALESCE_MILLISECONDS)
        self.is_live = False
        cluster.loaded.connect(self.refresh)
        cluster.models_changed.connect(self.refresh)
        cluster.deployments_changed.connect(self.refresh)
        cluster.nodes_reset.connect(self.refresh)
        cluster.nodes_changed.connect(self._on_nodes_changed)

    def row_of(self, name: str) -> int:
        """-1 when it cannot be chosen."""
        return next((row for row, choice in enumerate(self.rows) if choice.name == name), -1)

    @Slot(object)
    def _on_nodes_changed(self, ids: frozenset[int]) -> None:
        if self.is_live and not self._timer.isActive():
            self._timer.start()

    @Slot()
    def refresh(self) -> None:
        """Look again."""
        rows = choices(self._cluster.models, self._cluster.deployments, self._cluster.nodes.values())
        if [row.name for row in rows] != [row.name for row in self.rows]:
            self.reset(rows)
            return
        for number, row in enumerate(rows):
            if row != self.rows[number]:
                self.replace(number, row)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if (choice := self.row(index)) is None:
            return None
        match role:
            case Qt.ItemDataRole.DisplayRole | ChoiceRole.NAME:
                return choice.name
            case Qt.ItemDataRole.ToolTipRole | Qt.ItemDataRole.AccessibleDescriptionRole | ChoiceRole.NOTE:
                return choice.note
            case ChoiceRole.READY:
                return choice.ready
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        choice = self.row(index)
        return super().flags(index) if choice is not None and choice.usable else Qt.ItemFlag.NoItemFlags
