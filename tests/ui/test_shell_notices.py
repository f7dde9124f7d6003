"""Toasts pass, banners stay, and details can be copied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from app.errors import NodeError
from app.ui.notices import Level, NoticeAction
from app.ui.shell import toasts
from app.ui.shell.banners import BannerBar
from app.ui.shell.error_dialog import ErrorDialog
from app.ui.shell.toasts import FOOT, ToastArea
from app.ui.workbench import Workbench


@pytest.fixture
def window(qtbot: QtBot) -> Iterator[QWidget]:
    widget = QWidget()
    widget.resize(800, 600)
    qtbot.addWidget(widget)
    widget.show()
    yield widget


def area_on(window: QWidget, workbench: Workbench) -> ToastArea:
    return ToastArea(workbench.notices, workbench.theme, window, workbench.settings)


def test_a_toast_passes_by_itself_and_the_place_is_free_again(
    window: QWidget, quiet_workbench: Workbench, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toasts, "SECONDS", 0.05)
    area = area_on(window, quiet_workbench)
    quiet_workbench.notices.toast("Copied.")
    assert area.isVisible() and [toast.notice.text for toast in area.toasts] == ["Copied."]
    qtbot.waitUntil(lambda: not area.toasts)
    assert not area.isVisible()


def test_a_toast_stays_while_the_keyboard_is_in_it(
    window: QWidget, quiet_workbench: Workbench, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toasts, "SECONDS", 0.05)
    monkeypatch.setattr(toasts, "SECONDS_WITH_ACTIONS", 0.05)
    area = area_on(window, quiet_workbench)
    window.activateWindow()
    quiet_workbench.notices.toast("Removed.", Level.INFO, NoticeAction("Undo", lambda: None))
    held = area.toasts[0]
    held.findChild(QPushButton).setFocus()
    qtbot.waitUntil(lambda: held.is_attended)
    quiet_workbench.notices.toast("Another.")
    qtbot.waitUntil(lambda: len(area.toasts) == 1)
    assert area.toasts == (held,)


def test_the_action_of_a_toast_runs_and_closes_it(window: QWidget, quiet_workbench: Workbench, qtbot: QtBot) -> None:
    area = area_on(window, quiet_workbench)
    done: list[str] = []
    quiet_workbench.notices.toast("Removed.", Level.INFO, NoticeAction("Undo", lambda: done.append("undone")))
    qtbot.mouseClick(area.toasts[0].findChild(QPushButton), Qt.MouseButton.LeftButton)
    assert done == ["undone"] and not area.toasts


def test_at_most_four_toasts_stand_and_the_oldest_goes(window: QWidget, quiet_workbench: Workbench) -> None:
    area = area_on(window, quiet_workbench)
    for number in range(6):
        quiet_workbench.notices.toast(f"note {number}")
    assert [toast.notice.text for toast in area.toasts] == [f"note {number}" for number in range(2, 6)]


def test_toasts_keep_to_the_lower_right_corner_and_show_their_whole_text(
    window: QWidget, quiet_workbench: Workbench, qtbot: QtBot
) -> None:
    area = area_on(window, quiet_workbench)
    quiet_workbench.notices.toast("A rather long text that needs more than one line in the width of a toast. " * 2)
    text = next(each for each in area.toasts[0].findChildren(QLabel) if each.text())
    qtbot.waitUntil(lambda: text.height() >= 3 * text.fontMetrics().lineSpacing())
    window.resize(1000, 700)
    qtbot.waitUntil(lambda: area.geometry().bottomRight() == window.rect().bottomRight() - QPoint(0, FOOT))


def test_a_toast_does_not_fade_in_when_animations_are_off(window: QWidget, quiet_workbench: Workbench) -> None:
    from PySide6.QtWidgets import QGraphicsOpacityEffect

    area = area_on(window, quiet_workbench)
    quiet_workbench.notices.toast("fading")
    quiet_workbench.settings.set("appearance/animations", False)
    quiet_workbench.notices.toast("at once")
    fading, at_once = area.toasts
    assert isinstance(fading.graphicsEffect(), QGraphicsOpacityEffect)
    assert not isinstance(at_once.graphicsEffect(), QGraphicsOpacityEffect)


def test_a_level_is_said_in_words_too(window: QWidget, quiet_workbench: Workbench) -> None:
    area = area_on(window, quiet_workbench)
    quiet_workbench.notices.toast("node-2 is gone.", Level.ERROR)
    assert area.toasts[0].accessibleName() == "Error: node-2 is gone."


def test_three_banners_show_the_newest_first_and_the_rest_wait_behind_a_button(
    quiet_workbench: Workbench, qtbot: QtBot
) -> None:
    bar = BannerBar(quiet_workbench.notices, quiet_workbench.theme)
    qtbot.addWidget(bar)
    assert bar.isHidden()
    for number in range(5):
        quiet_workbench.notices.banner(f"key {number}", Level.WARNING, f"banner {number}")
    assert [banner.notice.text for banner in bar.banners] == ["banner 4", "banner 3", "banner 2"]
    assert bar.more.text() == "2 more"
    bar.more.click()
    assert len(bar.banners) == 5 and bar.more.text() == "Show fewer"
    bar.more.click()
    assert len(bar.banners) == 3


def test_closing_a_banner_leaves_the_widgets_of_the_others(quiet_workbench: Workbench, qtbot: QtBot) -> None:
    bar = BannerBar(quiet_workbench.notices, quiet_workbench.theme)
    qtbot.addWidget(bar)
    quiet_workbench.notices.banner("one", Level.INFO, "one")
    quiet_workbench.notices.banner("two", Level.INFO, "two")
    two, one = bar.banners
    two.close_button.click()
    assert bar.banners == (one,)
    quiet_workbench.notices.withdraw("one")
    assert bar.banners == () and bar.isHidden()


def test_a_banner_of_an_error_offers_what_can_be_done_and_its_details(quiet_workbench: Workbench, qtbot: QtBot) -> None:
    bar = BannerBar(quiet_workbench.notices, quiet_workbench.theme)
    qtbot.addWidget(bar)
    bar.show()
    tried: list[bool] = []
    error = NodeError("node-3 has 3.8 GB free.", "Free memory on node-3.", kind="memory", node="node-3")
    quiet_workbench.notices.error("Deploying failed", error, NoticeAction("Try again", lambda: tried.append(True)))
    banner = bar.banners[0]
    next(button for button in banner.findChildren(QPushButton) if button.text() == "Try again").click()
    banner.details_button.click()
    dialog = bar.findChild(ErrorDialog)
    assert tried == [True]
    shown = [label.text() for label in dialog.findChildren(QLabel)]
    assert {"Deploying failed", "node-3 has 3.8 GB free.", "Free memory on node-3."} <= set(shown)
    dialog.copy_button.click()
    assert "node: node-3" in QGuiApplication.clipboard().text()
    dialog.close()
