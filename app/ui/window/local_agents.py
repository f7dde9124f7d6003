"""Agents of this machine that belong to the window: started again when it opens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Slot

from app.cluster.node_state import Heard
from app.errors import ShardboardError
from app.registry.records import NodeRecord
from app.ui.bridge import Report, window_origin
from app.ui.notices import NoticeAction
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller


class LocalAgents(QObject):
    """Brings back what an earlier window has stopped, so that its deployments answer again."""

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._workbench = workbench
        workbench.cluster.loaded.connect(self._on_loaded)

    @Slot()
    def _on_loaded(self) -> None:
        self._workbench.bridge.call(
            lambda controller, report: controller.stopped_agents(), "looking for agents"
        ).done.connect(self._on_found)

    @Slot(object)
    def _on_found(self, stopped: list[NodeRecord]) -> None:
        start = bool(self._workbench.settings.get("agents/start_with_window"))
        for node in stopped:
            self._workbench.cluster.take_heard(node.id, Heard(False, "stopped", starting=start))
        if start and stopped:
            self.start([node.id for node in stopped])

    def start(self, nodes: list[int]) -> None:
        """Start agents of this machine again, side by side."""
        for node in nodes:
            self._workbench.cluster.take_heard(node, Heard(False, starting=True))
        call = self._workbench.bridge.call(
            lambda controller, report: _start_all(controller, report, nodes), "starting the agents"
        )
        call.progressed.connect(self._on_failures)

    @Slot(object)
    def _on_failures(self, failures: tuple[tuple[int, ShardboardError], ...]) -> None:
        for node, error in failures:
            view = self._workbench.cluster.nodes.get(node)
            name = view.name if view is not None else f"node {node}"
            again = NoticeAction("Try again", lambda node=node: self.start([node]))  # type: ignore[misc]
            self._workbench.notices.error(f"{name} could not be started", error, again, key=f"start-{node}")


async def _start_all(controller: Controller, report: Report, nodes: list[int]) -> None:
    async def start(node: int) -> None:
        try:
            await controller.start_agent(node, origin=window_origin())
        except ShardboardError as error:
            report((node, error))

    await asyncio.gather(*(start(node) for node in nodes))
