"""The dock with all jobs: how far each is, and what can be done with the chosen one."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPoint, Qt, Signal, Slot
from PySide6.QtGui import QAction, QGuiApplication, QKeySequence
from PySide6.QtWidgets import QDockWidget, QFrame, QHBoxLayout, QListView, QMenu, QWidget

from app.ui import make
from app.ui.empty_state import EmptyState
from app.ui.jobs.details_dialog import JobDetailsDialog
from app.ui.jobs.job_delegate import JobDelegate
from app.ui.jobs.job_words import details_text
from app.ui.jobs.jobs_model import JobsModel
from app.ui.jobs.jobs_notices import JobNotices, open_folder
from app.ui.jobs.shown_job import ShownJob
from app.ui.theme import SPACING
from app.ui.workbench import Workbench


class JobsDock(QDockWidget):
    """The list of jobs with what can be done to them. Makes the jobs' notices, so there is one dock in a window."""

    summary_changed = Signal(str)
    """For the status bar: 2 jobs, 40 %; empty when nothing is under way."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__("Jobs", parent)
        self.setObjectName("jobs-dock")
        self._workbench = workbench
        self.notices = JobNotices(workbench, self)
        self.model = JobsModel(workbench.jobs, self)
        self.model.summary_changed.connect(self.summary_changed)
        self._make_actions()
        self.view = self._make_view()
        self._pages = make.stack(self._make_empty(), self.view)
        body = make.dressed(QFrame(), "panel")
        make.column(self._make_bar(), (self._pages, 1), within=body, spacing=0)
        self.setWidget(body)
        self.model.rowsInserted.connect(self._on_rows)
        self.model.rowsRemoved.connect(self._on_rows)
        self.model.dataChanged.connect(self._update_actions)
        workbench.jobs.job_added.connect(self._on_added)
        workbench.theme.changed.connect(self._on_theme)
        self._on_rows()

    @property
    def summary(self) -> str:
        return self.model.summary

    # --- building ---

    def _make_actions(self) -> None:
        def action(text: str, picture: str, run: make.Run, tip: str, *keys: Qt.Key) -> QAction:
            made = make.command(self, picture, text, run)
            made.setToolTip(tip)  # which names its keys
            made.setShortcuts([QKeySequence(key) for key in keys])
            made.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
            return made

        key = Qt.Key
        self.cancel_action = action("Cancel", "circle-stop", self._cancel, "Cancel the chosen job (Del)")
        self.retry_action = action("Retry", "rotate-ccw", self._retry, "Do the chosen job once more")
        self.open_action = action("Open folder", "folder-open", self._open, "Show what the job has written")
        self.details_action = action(
            "Details", "info", self._show_details, "All that is known of the job (Enter)", key.Key_Return, key.Key_Enter
        )
        self.copy_action = action("Copy details", "copy", self._copy, "Copy all that is known of the job (Ctrl+C)")
        self.copy_action.setShortcut(QKeySequence(QKeySequence.StandardKey.Copy))
        self.clear_action = action(
            "Clear finished", "trash-2", self._clear, "Remove the jobs that are over from the list"
        )
        self._delete_action = action(
            "Cancel or remove", "x", self._cancel_or_remove, "Cancel the job, or remove it when it is over",
            key.Key_Delete,
        )  # fmt: skip

    def _make_view(self) -> QListView:
        view = make.dressed(QListView(), key="jobs-list", name="Jobs")
        view.setModel(self.model)
        view.setItemDelegate(JobDelegate(self._workbench.theme, view))
        view.setMouseTracking(True)
        view.setUniformItemSizes(True)
        view.setVerticalScrollMode(QListView.ScrollMode.ScrollPerPixel)
        view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        view.customContextMenuRequested.connect(self._show_menu)
        view.doubleClicked.connect(self._on_double_clicked)
        view.selectionModel().currentChanged.connect(self._update_actions)
        view.addActions([self.details_action, self.copy_action, self._delete_action])
        return view

    def _make_bar(self) -> QHBoxLayout:
        bar = make.row(margins=(SPACING, SPACING // 2, SPACING, SPACING // 2), spacing=SPACING // 2)
        shown = (self.cancel_action, self.retry_action, self.open_action, self.details_action, self.copy_action)
        for action in (*shown, self.clear_action):
            bar.addWidget(make.tool_of(action, words=True))
        bar.insertStretch(len(shown), 1)
        return bar

    def _make_empty(self) -> EmptyState:
        page = EmptyState(self._workbench.theme)
        sentence = "Cutting a model, adding one, deploying and measuring show here how far they are."
        page.say("briefcase", "Nothing is under way", sentence)
        page.offer("Add a model…", self._add_model, "plus")
        page.offer("Cut into shards…", self._cut_model, "scissors")
        return page

    @Slot()
    def _add_model(self) -> None:
        from app.ui.jobs.add_model_dialog import AddModelDialog

        AddModelDialog(self._workbench, self).open()

    @Slot()
    def _cut_model(self) -> None:
        from app.ui.jobs.cut_dialog import CutDialog

        CutDialog(self._workbench, parent=self).open()

    # --- what happens ---

    @Slot(object)
    def _on_added(self, job: ShownJob) -> None:
        """What was asked for last is what the user looks for, when it was this user."""
        if not job.is_own and self.current is not None:
            return
        self.view.setCurrentIndex(self.model.index_of(job))
        self.view.scrollToTop()

    @Slot()
    def _on_rows(self) -> None:
        self._pages.setCurrentIndex(1 if self.model.rowCount() else 0)
        self._update_actions()

    @Slot()
    def _on_theme(self) -> None:
        self.view.viewport().update()

    @Slot()
    def _update_actions(self) -> None:
        job = self.current
        over = job is not None and job.is_over
        self.cancel_action.setEnabled(job is not None and not over and not job.view.is_ending)
        self.retry_action.setEnabled(job is not None and over and job.view.can_retry)
        self.open_action.setEnabled(job is not None and job.view.folder is not None)
        self.details_action.setEnabled(job is not None)
        self.copy_action.setEnabled(job is not None)
        self.clear_action.setEnabled(any(each.is_over for each in self._workbench.jobs.jobs))

    @property
    def current(self) -> ShownJob | None:
        """The chosen job."""
        return self.model.row(self.view.currentIndex())

    @Slot(QPoint)
    def _show_menu(self, at: QPoint) -> None:
        if self.current is None:
            return
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addActions([self.cancel_action, self.retry_action, self.open_action])
        menu.addSeparator()
        menu.addActions([self.details_action, self.copy_action])
        menu.addSeparator()
        menu.addAction(self.clear_action)
        menu.popup(self.view.viewport().mapToGlobal(at))

    # --- what can be done ---

    @Slot()
    def _cancel(self) -> None:
        if self.current is not None:
            self.current.cancel()

    @Slot()
    def _retry(self) -> None:
        if self.current is not None:
            self.current.retry()

    @Slot()
    def _open(self) -> None:
        if self.current is not None and self.current.view.folder is not None:
            open_folder(self.current.view.folder)

    @Slot()
    def _copy(self) -> None:
        if self.current is not None:
            QGuiApplication.clipboard().setText(details_text(self.current.view))
            self._workbench.notices.toast("The job's details were copied.")

    @Slot()
    def _clear(self) -> None:
        self._workbench.jobs.clear_finished()

    @Slot()
    def _cancel_or_remove(self) -> None:
        job = self.current
        if job is None:
            return
        if job.is_over:
            self._workbench.jobs.remove(job)
        else:
            job.cancel()

    @Slot(QModelIndex)
    def _on_double_clicked(self, index: QModelIndex) -> None:
        self._show_details()

    @Slot()
    def _show_details(self) -> None:
        if self.current is not None:
            JobDetailsDialog(self.current, self).open()
