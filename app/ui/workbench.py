"""What every screen gets: the bridge, the cluster's mirror, notices, settings, jobs, and the way to other screens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal

from app.ui.bridge import Bridge
from app.ui.cluster import Cluster
from app.ui.foreign_requests import ForeignRequests
from app.ui.http_server import HttpServer
from app.ui.notices import Notices
from app.ui.settings import Settings
from app.ui.settings_desk import SettingsDesk
from app.ui.theme import ThemeKeeper

if TYPE_CHECKING:
    from app.ui.jobs.job_queue import JobQueue


class Workbench(QObject):
    """Services that screens share. Made once by the application, or by a test."""

    navigate = Signal(str, object)
    """Show a screen (board, chat, nodes, runs, log, welcome) with something in it: ("chat", model name), ("runs",
    request id), ("nodes", node id or one of start, add, find, invite), ("board", model name), ("log", node id),
    ("preferences", title of a page); None for the screen as it is."""

    def __init__(self, bridge: Bridge, settings: Settings, theme: ThemeKeeper, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.bridge = bridge
        self.settings = settings
        self.theme = theme
        self.notices = Notices(self)
        self.cluster = Cluster(bridge, self)
        self.desk = SettingsDesk()
        self.server = HttpServer(bridge, self.desk, self)
        self.foreign = ForeignRequests(bridge, self)
        self._jobs: JobQueue | None = None

    @property
    def jobs(self) -> JobQueue:
        """Long work that the user watches: sharding, adding models, deployments."""
        if self._jobs is None:
            from app.ui.jobs.job_queue import JobQueue

            self._jobs = JobQueue(self.bridge, self)
        return self._jobs
