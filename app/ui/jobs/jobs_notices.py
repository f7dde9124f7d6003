"""Says how jobs ended, for who does not look at the dock."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, QUrl, Slot
from PySide6.QtGui import QDesktopServices

from app.jobs.job import JobSnapshot
from app.registry.records import JobStatus
from app.ui.jobs.shown_job import ShownJob
from app.ui.notices import Level, NoticeAction
from app.ui.workbench import Workbench


class JobNotices(QObject):
    """A toast for what was done, a banner for what failed; a cancelled job has its row and no more.

    Deployments are left to the board, which says more of them; what others asked for to themselves.
    """

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._workbench = workbench
        workbench.jobs.job_added.connect(self._on_added)
        workbench.jobs.job_ended.connect(self._on_ended)

    @Slot(object)
    def _on_added(self, job: ShownJob) -> None:
        """The same once more: what the last try failed of is no news any longer."""
        self._workbench.notices.withdraw(_key(job.view))

    @Slot(object)
    def _on_ended(self, job: ShownJob) -> None:
        view = job.view
        if view.kind == "deploy" or not job.is_own:
            return
        if view.status is JobStatus.DONE:
            self._workbench.notices.toast(_done_text(view), Level.SUCCESS, *self._done_actions(view))
        elif view.status is JobStatus.FAILED and view.error is not None:
            retry = (NoticeAction("Retry", job.retry),) if view.can_retry else ()
            self._workbench.notices.error(view.title, view.error, *retry, key=_key(view))

    def _done_actions(self, view: JobSnapshot) -> tuple[NoticeAction, ...]:
        folder, model, navigate = view.folder, view.model, self._workbench.navigate
        if folder is not None:
            return (NoticeAction("Open folder", lambda: open_folder(folder)),)
        if model:
            return (NoticeAction("Show on board", lambda: navigate.emit("board", model)),)
        return ()


def _key(view: JobSnapshot) -> str:
    return f"job {view.title}"


def _done_text(view: JobSnapshot) -> str:
    if view.kind == "cut":
        return f"{view.model} was cut: {view.result}"
    return view.result or f"{view.title}: done"


def open_folder(folder: Path) -> None:
    """Show a folder in the system's file manager."""
    QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))
