"""About, shortcuts, preferences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QCheckBox, QComboBox, QLabel
from pytestqt.qtbot import QtBot

import worker_agent
from app.controller import Controller
from app.controller_settings import ControllerSettings, RecordSettings, ServerSettings
from app.registry import EventLevel, Registry
from app.ui.bridge import Report
from app.ui.shell.about import AboutDialog
from app.ui.shell.preferences import PreferencesDialog
from app.ui.shell.records_section import RecordsSection
from app.ui.shell.shortcuts import ShortcutEntry, ShortcutsDialog
from app.ui.shell.storage_section import StorageSection, folder_bytes
from app.ui.workbench import Workbench


def test_about_names_version_and_licences_and_copies_the_versions(qtbot: QtBot) -> None:
    dialog = AboutDialog()
    qtbot.addWidget(dialog)
    shown = {label.text() for label in dialog.findChildren(QLabel)}
    assert {worker_agent.__version__, "Apache License 2.0", "GNU LGPL 3", "ISC License"} <= shown
    dialog.copy_button.click()
    assert f"Shardboard {worker_agent.__version__}" in QGuiApplication.clipboard().text()


def test_shortcuts_are_grouped_and_found(qtbot: QtBot) -> None:
    entries = [
        ShortcutEntry("Board", "Undo", "Ctrl+Z"),
        ShortcutEntry("Go to", "Board", "Ctrl+1"),
        ShortcutEntry("Board", "Nothing yet", ""),
        ShortcutEntry("View", "Zoom in", "Ctrl++"),
    ]
    dialog = ShortcutsDialog(entries)
    qtbot.addWidget(dialog)
    texts = [label.text() for label in dialog.findChildren(QLabel)]
    assert "Nothing yet" not in texts and texts.count("+") == 1
    dialog.search.setText("undo")
    assert [entry.keys for entry in dialog.shown] == ["Ctrl+Z"]


@pytest.mark.parametrize(
    "key", ["appearance/animations", "agents/start_with_window", "agents/stop_with_window", "chat/keep_history"]
)
def test_a_switch_takes_effect_at_once_and_follows_the_setting(
    quiet_workbench: Workbench, qtbot: QtBot, key: str
) -> None:
    dialog = PreferencesDialog(quiet_workbench)
    qtbot.addWidget(dialog)
    box = dialog.findChild(QCheckBox, f"preference-{key}")
    assert box.isChecked()
    box.click()
    assert quiet_workbench.settings.get(key) is False
    quiet_workbench.settings.set(key, True)
    assert box.isChecked()


def test_the_theme_changes_at_once(quiet_workbench: Workbench, qtbot: QtBot) -> None:
    dialog = PreferencesDialog(quiet_workbench)
    qtbot.addWidget(dialog)
    box = dialog.findChild(QComboBox, "preference-appearance/theme")
    box.setCurrentIndex(box.findData("dark"))
    assert quiet_workbench.theme.is_dark
    box.setCurrentIndex(box.findData("light"))
    assert not quiet_workbench.theme.is_dark


def test_how_new_plans_begin_can_be_chosen(quiet_workbench: Workbench, qtbot: QtBot) -> None:
    settings = quiet_workbench.settings
    settings.set("board/context", 12_345)
    dialog = PreferencesDialog(quiet_workbench)
    qtbot.addWidget(dialog)
    dtype = dialog.findChild(QComboBox, "preference-board/dtype")
    context = dialog.findChild(QComboBox, "preference-board/context")
    assert dtype.currentText() == "As the model's weights"
    assert context.currentText() == "12,345", "what was written by hand stays"
    dtype.setCurrentIndex(dtype.findData("float16"))
    context.setCurrentIndex(context.findData(4096))
    assert (settings.get("board/dtype"), settings.get("board/context")) == ("float16", 4096)


def test_storage_says_what_the_folders_take(workbench: Workbench, qtbot: QtBot) -> None:
    home = workbench.bridge.home
    assert home is not None
    (home.models / "weights").write_bytes(b"x" * 3_000_000)
    section = StorageSection(workbench)
    qtbot.addWidget(section)
    qtbot.waitUntil(lambda: "free on this disk" in section.free.text())
    assert "3 MB" in [label.text() for label in section.findChildren(QLabel)]


def test_a_folder_counts_all_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"x" * 10)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 5)
    assert folder_bytes(tmp_path) == 15
    assert folder_bytes(tmp_path / "nowhere") == 0


def read_settings(workbench: Workbench, qtbot: QtBot) -> ControllerSettings:
    async def work(controller: Controller, report: Report) -> ControllerSettings:
        return controller.settings

    with qtbot.waitSignal(workbench.bridge.call(work, "reading the settings").done) as done:
        pass
    assert isinstance(done.args[0], ControllerSettings)
    return done.args[0]


@pytest.fixture
def records(workbench: Workbench, qtbot: QtBot) -> RecordsSection:
    section = RecordsSection(workbench)
    qtbot.addWidget(section)
    section.show()
    qtbot.waitUntil(lambda: section.used.text().startswith("Now "))
    return section


def test_what_is_kept_is_chosen_and_saved(records: RecordsSection, workbench: Workbench, qtbot: QtBot) -> None:
    assert (records.days.value(), records.limit.value()) == (90, 2048)
    records.days.setValue(7)
    records.limit.setValue(0)
    assert records.limit.text() == "without a limit"
    records.text.click()
    workbench.server.change(port=7979)
    home = workbench.bridge.home
    assert home is not None
    wanted = ControllerSettings(
        server=ServerSettings(port=7979), records=RecordSettings(keep_days=7, keep_bytes=0, keep_text=False)
    )
    qtbot.waitUntil(lambda: read_settings(workbench, qtbot) == wanted)
    assert ControllerSettings.load(home.settings) == wanted


def test_what_is_too_old_is_removed_only_after_a_second_press(
    records: RecordsSection, workbench: Workbench, qtbot: QtBot
) -> None:
    old = datetime.now(UTC) - timedelta(days=100)

    def write(registry: Registry) -> None:
        registry.events.add(EventLevel.INFO, "test", "Old.", at=old)
        registry.events.add(EventLevel.INFO, "test", "New.")

    with qtbot.waitSignal(workbench.bridge.read(write, "writing").done):
        pass
    records.prune.click()
    records.keep.click()
    assert not records.confirm.isVisibleTo(records)
    records.prune.click()
    assert records.confirm.text() == "Remove what is older than 90 days or is beyond 2 GiB"
    with qtbot.waitSignal(workbench.notices.toasted) as said:
        records.confirm.click()
    assert said.args[0].text == "Removed 1 event."
    with qtbot.waitSignal(
        workbench.bridge.read(lambda registry: [event.message for event in registry.events.list()], "reading").done
    ) as left:
        pass
    assert "New." in left.args[0] and "Old." not in left.args[0]
