"""The question before nodes are removed: which, and what goes down with them."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QWidget

from app.ui import make
from app.ui.cluster import Cluster
from app.ui.nodes.node_dialog import FittedDialog, wrapped
from app.ui.nodes.node_words import listed, models_of
from app.ui.snapshots import NodeSnapshot
from app.ui.theme import SPACING

_NAMED = 6
"""So many nodes are named; more are counted."""


class RemoveNodesDialog(FittedDialog):
    """Accepted when the user wants it."""

    def __init__(self, cluster: Cluster, nodes: Sequence[NodeSnapshot], parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("nodes-remove-dialog")
        names = names_of(nodes)
        title = f"Remove {names}?" if len(nodes) == 1 else f"Remove {len(nodes)} nodes?"
        self.setWindowTitle("Remove nodes" if len(nodes) > 1 else "Remove node")
        self.setModal(True)
        heading = make.label(title, "title", wraps=True)
        layout = make.column(heading, within=self, margins=make.DIALOG, spacing=2 * SPACING)
        self.consequences = "\n".join(_consequences(cluster, nodes))
        layout.addWidget(wrapped(self.consequences, ""))
        layout.addStretch(1)
        row = make.row(make.STRETCH, spacing=None)
        cancel = make.button("Cancel", self.reject, by_return=True)
        self.remove = make.button("Remove", self.accept, role="danger", by_return=False)
        row.addWidget(cancel)
        row.addWidget(self.remove)
        layout.addLayout(row)
        self.setMinimumWidth(self.fontMetrics().averageCharWidth() * 68)


def names_of(nodes: Sequence[NodeSnapshot]) -> str:
    """node-1, node-2 and 5 more"""
    names = [view.name for view in nodes]
    return listed(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _consequences(cluster: Cluster, nodes: Sequence[NodeSnapshot]) -> list[str]:
    said = [names_of(nodes)] if len(nodes) > 1 else []
    affected = list(dict.fromkeys(view for node in nodes for view in cluster.deployments_on(node.id)))
    if affected:
        s = "s" if len(affected) > 1 else ""
        go = "go" if s else "goes"
        said.append(f"The deployment{s} of {models_of(affected)} {go} down with {'them' if len(nodes) > 1 else 'it'}.")
    here, ours = [view for view in nodes if view.is_here], [view for view in nodes if view.is_ours]
    if ours:
        one = len(ours) == 1
        where = "on this machine" if len(here) == len(ours) else "brought from here"
        said.append(
            f"{'The agent' if one else f'{len(ours)} agents'} {where} "
            f"{'ends, and its' if one else 'end, and their'} stored layers are deleted."
        )
    if len(ours) < len(nodes):
        said.append("Agents on other machines go on running and keep what they store; they can be added again.")
    return said
