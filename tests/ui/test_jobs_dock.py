"""The list of jobs and its dock: rows, words, keys, notices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QStyleOptionViewItem
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

from app.errors import DiskFullError
from app.jobs.job import JobSnapshot
from app.jobs.works import AddWork
from app.registry.records import JobStatus
from app.runs.trace import Origin
from app.ui.jobs.details_dialog import JobDetailsDialog
from app.ui.jobs.job_words import figures_text, spoken_text
from app.ui.jobs.jobs_dock import JobsDock
from app.ui.jobs.jobs_model import JobRole, JobsModel
from app.ui.notices import Level, Notice
from app.ui.workbench import Workbench
from tests.ui.jobs_support import made_up

FULL = DiskFullError("The disk of /data is full.", "Free some space.")


@pytest.fixture
def dock(quiet_workbench: Workbench, qtbot: QtBot) -> JobsDock:
    dock = JobsDock(quiet_workbench)
    qtbot.addWidget(dock)
    dock.resize(900, 300)
    dock.show()
    return dock


@pytest.mark.parametrize("force_py", [False, True])
def test_the_model_is_sound_while_jobs_come_change_and_go(
    quiet_workbench: Workbench, qtmodeltester: ModelTester, force_py: bool
) -> None:
    queue = quiet_workbench.jobs
    early = made_up(queue, 1, "Cut a")
    model = JobsModel(queue)
    qtmodeltester.check(model, force_py=force_py)
    jobs = [made_up(queue, number, f"Cut {number}") for number in range(2, 6)]
    assert [model.index(row, 0).data() for row in range(5)] == ["Cut 5", "Cut 4", "Cut 3", "Cut 2", "Cut a"]
    jobs[1].change(status=JobStatus.RUNNING, phase="cutting", done_bytes=5, total_bytes=10)
    assert model.index(2, 0).data(JobRole.VIEW).fraction == 0.5
    jobs[2].finish(JobStatus.FAILED, error=FULL)
    queue.remove(jobs[2])
    early.cancel()
    queue.clear_finished()
    assert [model.index(row, 0).data() for row in range(model.rowCount())] == ["Cut 5", "Cut 3", "Cut 2"]


def test_the_summary_says_how_many_and_how_far(dock: JobsDock, quiet_workbench: Workbench) -> None:
    told: list[str] = []
    dock.summary_changed.connect(told.append)
    first = made_up(quiet_workbench.jobs, 1, "Cut", JobStatus.RUNNING)
    second = made_up(quiet_workbench.jobs, 2, "Add", JobStatus.RUNNING)
    first.change(done_bytes=30, total_bytes=100)
    second.change(done_bytes=50, total_bytes=100)
    assert dock.summary == "2 jobs, 40 %"
    first.cancel()
    second.finish(JobStatus.DONE)
    assert told == ["1 job", "2 jobs", "2 jobs, 30 %", "2 jobs, 40 %", "1 job, 50 %", ""]


def test_a_row_says_what_it_shows(quiet_workbench: Workbench) -> None:
    job = made_up(
        quiet_workbench.jobs, 1, "Cut x into 2 shards", JobStatus.RUNNING, phase="cutting",
        done_bytes=1_200_000_000, total_bytes=4_000_000_000, bytes_per_second=120e6, seconds_left=25.2,
    )  # fmt: skip
    assert figures_text(job.view) == "1.2 of 4 GB · 120 MB/s · 25 s left"
    assert spoken_text(job.view).startswith("Cut x into 2 shards, Cutting, 30%, 1.2 of 4 GB")
    measuring = made_up(
        quiet_workbench.jobs,
        2,
        "Measure x",
        JobStatus.RUNNING,
        phase="measuring",
        done_bytes=512,
        total_bytes=2704,
        unit="tokens",
    )
    assert figures_text(measuring.view) == "512 of 2,704 tokens"
    job.finish(JobStatus.FAILED, error=FULL)
    assert spoken_text(job.view) == "Cut x into 2 shards, Failed, The disk of /data is full. Free some space"


def test_an_empty_dock_says_so_and_offers_what_can_be_done(dock: JobsDock, quiet_workbench: Workbench) -> None:
    page = dock.findChild(type(dock.view), "jobs-list")
    assert page is not None and not page.isVisible()
    made_up(quiet_workbench.jobs, 1, "Cut")
    assert page.isVisible()


def test_delete_cancels_what_runs_and_removes_what_is_over(
    dock: JobsDock, quiet_workbench: Workbench, qtbot: QtBot
) -> None:
    job = made_up(quiet_workbench.jobs, 1, "Cut", JobStatus.RUNNING)
    assert dock.current is job and dock.cancel_action.isEnabled() and not dock.retry_action.isEnabled()
    dock.activateWindow()
    dock.view.setFocus()
    qtbot.keyClick(dock.view, Qt.Key.Key_Delete)
    assert job.view.status is JobStatus.CANCELLED and not dock.cancel_action.isEnabled()
    assert dock.clear_action.isEnabled()
    qtbot.keyClick(dock.view, Qt.Key.Key_Delete)
    assert quiet_workbench.jobs.jobs == [] and dock.model.rowCount() == 0


def test_enter_opens_the_details_which_follow_the_job(dock: JobsDock, quiet_workbench: Workbench, qtbot: QtBot) -> None:
    job = made_up(quiet_workbench.jobs, 1, "Cut", JobStatus.RUNNING)
    dock.activateWindow()
    dock.view.setFocus()
    qtbot.keyClick(dock.view, Qt.Key.Key_Return)
    details = dock.findChild(JobDetailsDialog)
    assert details is not None
    job.finish(JobStatus.FAILED, error=FULL)
    details._copy()
    copied = QGuiApplication.clipboard().text()
    assert "(failed)" in copied and "kind: disk" in copied
    assert copied.count("The disk of /data is full.") == copied.count("Free some space.") == 1
    details.close()


def test_every_state_is_painted_in_both_themes(dock: JobsDock, quiet_workbench: Workbench) -> None:
    queue = quiet_workbench.jobs
    made_up(queue, 1, "Waiting")
    made_up(queue, 2, "Running", JobStatus.RUNNING, done_bytes=1, total_bytes=3)
    made_up(queue, 3, "Ending", JobStatus.RUNNING, is_ending=True)
    made_up(queue, 4, "Done", JobStatus.DONE, result="2 shards")
    made_up(queue, 5, "Failed " * 60, JobStatus.FAILED, error=FULL)
    dock.view.setCurrentIndex(dock.model.index(3, 0))
    light = dock.grab().toImage()
    quiet_workbench.theme.apply("dark")
    dark = dock.grab().toImage()
    quiet_workbench.theme.apply("light")
    at = dock.view.geometry().center()
    assert light.pixelColor(at).lightness() > 128 > dark.pixelColor(at).lightness()
    option = QStyleOptionViewItem()
    option.font = dock.view.font()
    line = dock.view.fontMetrics().height()
    assert dock.view.itemDelegate().sizeHint(option, dock.model.index(0, 0)).height() > 2 * line


def test_what_was_done_is_toasted_and_what_failed_stays_with_a_retry(
    dock: JobsDock, quiet_workbench: Workbench, tmp_path: Path
) -> None:
    toasts: list[Notice] = []
    quiet_workbench.notices.toasted.connect(toasts.append)
    shown: list[tuple[str, object]] = []
    quiet_workbench.navigate.connect(lambda screen, what: shown.append((screen, what)))
    queue = quiet_workbench.jobs
    made_up(queue, 1, "Cut x", JobStatus.RUNNING, model="x", folder=tmp_path, result="2 shards").finish(JobStatus.DONE)
    made_up(queue, 2, "Add y", JobStatus.RUNNING, kind="add", model="y", result="y is there").finish(JobStatus.DONE)
    made_up(queue, 3, "Add z", JobStatus.RUNNING, kind="add", can_retry=True).finish(JobStatus.FAILED, error=FULL)
    made_up(queue, 4, "Cut c", JobStatus.RUNNING).cancel()
    assert [(toast.level, toast.text) for toast in toasts] == [
        (Level.SUCCESS, "x was cut: 2 shards"), (Level.SUCCESS, "y is there"),
    ]  # fmt: skip
    assert [action.text for toast in toasts for action in toast.actions] == ["Open folder", "Show on board"]
    toasts[1].actions[0].run()
    assert shown == [("board", "y")]
    (banner,) = quiet_workbench.notices.banners
    assert banner.text == "Add z: The disk of /data is full." and banner.advice == "Free some space."
    assert [action.text for action in banner.actions] == ["Retry"]
    made_up(queue, 5, "Add z", kind="add")
    assert quiet_workbench.notices.banners == []


def test_a_job_that_others_asked_for_is_shown_and_says_by_whom_and_leaves_the_user_alone(
    dock: JobsDock, quiet_workbench: Workbench
) -> None:
    toasts: list[Notice] = []
    quiet_workbench.notices.toasted.connect(toasts.append)
    own = made_up(quiet_workbench.jobs, 1, "Cut x", JobStatus.RUNNING)
    view = JobSnapshot(
        2, "add", "Add y", JobStatus.RUNNING, origin=Origin(via="http", user="laptop"), work=AddWork("y")
    )
    quiet_workbench.bridge.jobs_changed.emit((view,))
    assert dock.current is own
    assert [dock.model.index(row, 0).data() for row in range(2)] == ["Add y", "Cut x"]
    assert "Asked by: laptop, over HTTP" in dock.model.index(0, 0).data(Qt.ItemDataRole.ToolTipRole)
    error = replace(view, status=JobStatus.FAILED, error=FULL, can_retry=True)
    quiet_workbench.bridge.jobs_changed.emit((error, error))
    assert dock.model.row(dock.model.index(0, 0)).view.can_retry
    assert toasts == [] and quiet_workbench.notices.banners == []
