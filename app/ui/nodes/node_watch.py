"""Banners for nodes that are lost while something depends on them, withdrawn when they are back."""

from __future__ import annotations

from PySide6.QtCore import QObject, Slot

from app.cluster.node_state import Heard, NodeState
from app.errors import ShardboardError
from app.ui.bridge import window_origin
from app.ui.nodes.node_words import models_of
from app.ui.notices import Level, NoticeAction
from app.ui.snapshots import NodeSnapshot
from app.ui.workbench import Workbench


class NodeWatch(QObject):
    """Lives as long as the window.

    What was there in this session and goes down is told. What was never there is told only when a deployment
    needs it. A stopped agent of this machine is calm, unless it ran in this session and something needs it.
    """

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(parent or workbench)
        self._workbench = workbench
        self._seen_up: set[int] = set()
        self._told: dict[int, tuple[NodeState, str]] = {}
        """What the banner of a node says now."""
        cluster = workbench.cluster
        cluster.nodes_changed.connect(self._on_changed)
        cluster.nodes_reset.connect(self._on_reset)
        cluster.deployments_changed.connect(self._on_reset)

    @Slot()
    def _on_reset(self) -> None:
        for gone in set(self._told) - set(self._workbench.cluster.nodes):
            self._withdraw(gone)
        self._seen_up &= set(self._workbench.cluster.nodes)
        self._on_changed(frozenset(self._workbench.cluster.nodes))

    @Slot(object)
    def _on_changed(self, ids: frozenset[int]) -> None:
        for id in ids:
            if (view := self._workbench.cluster.nodes.get(id)) is not None:
                self._judge(view)

    def _judge(self, view: NodeSnapshot) -> None:
        if view.state.is_up:
            self._seen_up.add(view.id)
        models = models_of(self._workbench.cluster.deployments_on(view.id))
        seen = view.id in self._seen_up
        match view.state:
            case NodeState.FROZEN:
                lost = True
            case NodeState.DOWN:
                lost = seen or bool(models)
            case NodeState.STOPPED:
                lost = seen and bool(models)
            case _:
                lost = False
        if not lost:
            self._withdraw(view.id)
        elif self._told.get(view.id) != (view.state, models):
            self._told[view.id] = (view.state, models)
            self._tell(view, models)

    def _tell(self, view: NodeSnapshot, models: str) -> None:
        what = {NodeState.FROZEN: "is frozen", NodeState.STOPPED: "has stopped"}.get(view.state, "is down")
        affected = f" {models} cannot answer until it is back." if models else ""
        actions = [NoticeAction("Show node", lambda: self._workbench.navigate.emit("nodes", view.id))]
        if view.state is NodeState.STOPPED:
            actions.insert(0, NoticeAction("Start agent", lambda: self._start(view)))
        self._workbench.notices.banner(
            f"node-{view.id}",
            Level.ERROR if models else Level.WARNING,
            f"{view.name} {what}.{affected}",
            *actions,
            advice=view.reason,
            details=f"{view.name} {what}\nreason: {view.reason}\naffected: {models or 'nothing'}",
        )

    def _start(self, view: NodeSnapshot) -> None:
        self._workbench.cluster.take_heard(view.id, Heard(False, starting=True))
        call = self._workbench.bridge.call(
            lambda controller, report: controller.start_agent(view.id, origin=window_origin()), f"starting {view.name}"
        )
        call.failed.connect(lambda error: self._on_start_failed(view, error))

    def _on_start_failed(self, view: NodeSnapshot, error: ShardboardError) -> None:
        self._workbench.notices.error(f"{view.name} could not be started", error)

    def _withdraw(self, id: int) -> None:
        if self._told.pop(id, None) is not None:
            self._workbench.notices.withdraw(f"node-{id}")
