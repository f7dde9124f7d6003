"""The line at the foot of the window: nodes, deployments, tokens per second, the HTTP server, jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QPushButton, QStatusBar, QWidget

from app.figures import token_rate
from app.ui import make
from app.ui.http_server import ServerState
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.ui.jobs.jobs_dock import JobsDock


class StatusBar(QStatusBar):
    """Figures of the whole cluster; a click on one opens the screen that has more."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self.setSizeGripEnabled(False)
        self._nodes = self._figure("nodes", "Nodes that answer")
        self._deployments = self._figure("board", "Models that are deployed")
        self._speed = self._figure("nodes", "Tokens per second of all deployments together")
        self.server = self._figure("preferences", "The HTTP server of this window")
        self.server.setProperty("page", "Server")
        self._refresh = make.timer(self, self._show_speed, 500, once=False)
        cluster = workbench.cluster
        cluster.nodes_reset.connect(self._show_nodes)
        cluster.nodes_changed.connect(self._show_nodes)
        cluster.deployments_changed.connect(self._show_deployments)
        cluster.activity.connect(self._on_activity)
        workbench.server.changed.connect(self._show_server)
        workbench.foreign.changed.connect(self._show_server)
        self._show_nodes()
        self._show_deployments()
        self._show_speed()
        self._show_server()

    def _figure(self, screen: str, meaning: str) -> QPushButton:
        button = make.button("", None, self, role="quiet")
        button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        button.setToolTip(meaning)
        button.setProperty("screen", screen)
        button.clicked.connect(self._on_clicked)
        self.addWidget(button)
        return button

    def show_jobs(self, dock: JobsDock) -> None:
        """Tell at the right what the jobs dock says in short; a click shows the dock."""
        button = make.dressed(QPushButton(dock.summary, self), "quiet", key="status-jobs")
        button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        button.setToolTip("Jobs (Ctrl+J)")
        button.setVisible(bool(dock.summary))
        dock.summary_changed.connect(button.setText)
        dock.summary_changed.connect(lambda text: button.setVisible(bool(text)))
        button.clicked.connect(lambda: dock.setVisible(not dock.isVisible()))
        self.addPermanentWidget(button)

    @Slot()
    def _on_clicked(self) -> None:
        sender = self.sender()
        if sender is not None:
            self._workbench.navigate.emit(str(sender.property("screen")), sender.property("page"))

    @Slot()
    @Slot(object)
    def _show_nodes(self, changed: object = None) -> None:
        nodes = self._workbench.cluster.nodes.values()
        up = sum(node.state.is_up for node in nodes)
        text = f"{up} of {len(nodes)} nodes up" if nodes else "No nodes"
        if text != self._nodes.text():
            self._nodes.setText(text)
            self._nodes.setAccessibleName(text)

    @Slot()
    def _show_deployments(self) -> None:
        count = sum(view.is_ready for view in self._workbench.cluster.deployments)
        text = "Nothing deployed" if not count else "1 deployment" if count == 1 else f"{count} deployments"
        self._deployments.setText(text)
        self._deployments.setAccessibleName(text)

    @Slot(object)
    def _on_activity(self, activity: object) -> None:
        if not self._refresh.isActive():
            self._refresh.start()
            self._show_speed()

    @Slot()
    def _show_speed(self) -> None:
        speed = self._workbench.cluster.tokens_per_second()
        if not speed:
            self._refresh.stop()  # an idle window wakes up for nothing
        text = token_rate(speed) if speed else "Idle"
        self._speed.setText(text)
        self._speed.setAccessibleName(text)

    @Slot()
    def _show_server(self) -> None:
        """Only while it is on, or should be."""
        server, count = self._workbench.server, self._workbench.foreign.http
        if server.state is ServerState.FAILED:
            text = "HTTP: not listening"
        else:
            text = f"HTTP at {server.url.removeprefix('http://')}"
            if count:
                text += f" · {count:,} request{'' if count == 1 else 's'}"
        self.server.setText(text)
        self.server.setAccessibleName(text)
        self.server.setToolTip(str(server.error) if server.error is not None else "The HTTP server of this window")
        self.server.setVisible(server.state in (ServerState.ON, ServerState.FAILED))
