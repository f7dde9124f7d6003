"""The screen Log: filters, follow, details, copies, and an agent's own log."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtGui import QGuiApplication
from pytestqt.qtbot import QtBot

from app.registry import EventLevel, Registry
from app.ui.log.event_model import EventListing, text_line
from app.ui.log.log_screen import LogScreen
from app.ui.paging.export import Rows
from app.ui.paging.export_run import Export
from app.ui.workbench import Workbench

from .simulated import fill
from .test_paging_model import write


def add(registry: Registry) -> None:
    registry.events.add(EventLevel.DEBUG, "links", "a beat")
    registry.events.add(EventLevel.INFO, "nodes", "The agent is there.", node_id=1)
    registry.events.add(EventLevel.WARNING, "health", "No answer for 3 beats.", node_id=2)
    registry.events.add(
        EventLevel.ERROR, "health", "The agent is frozen.\nSecond line.", node_id=2, request_id=9, details={"beats": 3}
    )


@pytest.fixture
def screen(workbench: Workbench, qtbot: QtBot) -> LogScreen:
    write(workbench, qtbot, add)
    fill(workbench.cluster, nodes=2)
    screen = LogScreen(workbench)
    qtbot.addWidget(screen)
    screen.resize(1180, 740)
    with qtbot.waitExposed(screen):
        screen.show()
    qtbot.waitUntil(lambda: messages(screen) != [])
    return screen


def messages(screen: LogScreen) -> list[str]:
    model = screen.events.model
    return [str(model.index(row, 4).data()) for row in range(model.rowCount())]


def test_the_newest_event_is_first_and_debug_is_left_out(screen: LogScreen) -> None:
    assert messages(screen) == ["The agent is frozen. Second line.", "No answer for 3 beats.", "The agent is there."]
    model = screen.events.model
    assert [str(model.index(row, 0).data()) for row in range(3)] == ["Error", "Warning", "Info"]
    assert [str(model.index(row, 3).data()) for row in range(3)] == ["node-2", "node-2", "node-1"]
    assert screen.events.panel.view.objectName() == "log-table"


def test_filters_by_level_source_node_and_text(screen: LogScreen, qtbot: QtBot) -> None:
    filters = screen.events.filters
    filters.levels.setCurrentIndex(0)
    qtbot.waitUntil(lambda: len(messages(screen)) == 4)
    qtbot.waitUntil(lambda: filters.sources.findText("health") > 0)
    filters.sources.setCurrentText("health")
    qtbot.waitUntil(lambda: len(messages(screen)) == 2)
    filters.search.setText("BEATS")
    qtbot.waitUntil(lambda: messages(screen) == ["No answer for 3 beats."])
    filters.nodes.setCurrentText("node-1")
    qtbot.waitUntil(lambda: screen.events.panel.is_empty)
    assert "matches these filters" in screen.events.panel.empty.text
    screen.events.panel.empty.pressed.emit()
    qtbot.waitUntil(lambda: len(messages(screen)) == 4)


def test_a_node_brings_what_is_about_it_even_when_it_is_gone(screen: LogScreen, qtbot: QtBot) -> None:
    screen.open_with(1)
    qtbot.waitUntil(lambda: messages(screen) == ["The agent is there."])
    screen.open_with(77)
    qtbot.waitUntil(lambda: screen.events.panel.is_empty)
    assert screen.events.filters.nodes.currentText() == "node 77"


def test_an_event_is_told_in_full_below(screen: LogScreen, workbench: Workbench, qtbot: QtBot) -> None:
    screen.events.panel.view.selectRow(0)
    detail = screen.events.detail
    assert detail.isVisible()
    assert detail.text.toPlainText() == 'The agent is frozen.\nSecond line.\n\n{\n  "beats": 3\n}'
    with qtbot.waitSignal(workbench.navigate) as went:
        detail._request.click()
    assert went.args == ["runs", 9]


def test_selected_events_are_copied_as_lines(screen: LogScreen) -> None:
    screen.events.panel.view.selectAll()
    screen.events.copy_selection()
    lines = QGuiApplication.clipboard().text().splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("ERROR   health node-2: The agent is frozen. | Second line.")


def test_follow_is_a_button_that_says_what_is(screen: LogScreen, workbench: Workbench, qtbot: QtBot) -> None:
    button = screen._follow_button
    assert (button.text(), button.isChecked()) == ("Following", True)
    button.click()
    assert button.text() == "Follow" and not screen.follow.isChecked()
    write(workbench, qtbot, add)
    qtbot.waitUntil(lambda: screen.events.model.newer == 3)
    assert len(messages(screen)) == 3
    screen.follow.trigger()
    qtbot.waitUntil(lambda: len(messages(screen)) == 6)
    assert button.text() == "Following"


def test_the_log_is_exported_as_text(screen: LogScreen, qtbot: QtBot, tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    with qtbot.waitSignal(screen.events.exporting.ended):
        screen.events.exporting.start(Export(Rows(EventListing(), None, ((0, 3),)), file, text_line))
    lines = file.read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["ERROR", "WARNING", "INFO", "DEBUG"]


def test_an_agent_that_does_not_answer_says_so_in_the_place_of_its_log(screen: LogScreen, qtbot: QtBot) -> None:
    assert [screen.chooser.itemText(each) for each in range(3)] == [
        "Events", "Agent log: node-1", "Agent log: node-2",
    ]  # fmt: skip
    screen.chooser.setCurrentIndex(2)
    page = screen.agent
    assert page.isVisible() and not screen.events.filters.isVisible()
    qtbot.waitUntil(page._error.isVisible)  # the node is made up: the controller does not know it
    assert "cannot be read" in page._error.text()
    page._on_ended()
    screen.chooser.setCurrentIndex(0)
    assert screen.events.isVisible() and page.node is None


def test_an_agents_log_is_shown_to_its_end_and_can_be_narrowed_down(screen: LogScreen) -> None:
    page = screen.agent
    page._lines = [f"line {number}" for number in range(300)]
    page._show_lines()
    assert page.text.toPlainText().endswith("line 299") and "300 lines" in page._note.text()
    page.search.setText("LINE 29")
    assert page.text.toPlainText().splitlines() == ["line 29", *(f"line {number}" for number in range(290, 300))]
    assert page._note.text() == "11 of 300 lines"


def test_nothing_yet_is_said_in_a_sentence(workbench: Workbench, qtbot: QtBot) -> None:
    screen = LogScreen(workbench)
    qtbot.addWidget(screen)
    screen.events.filters.reset()
    screen.show()
    qtbot.waitUntil(lambda: screen.events.panel.is_empty)
    assert "Nothing has happened yet." in screen.events.panel.empty.text
    other = LogScreen(workbench)
    qtbot.addWidget(other)
    screen.events.filters.levels.setCurrentIndex(3)
    other.restore(screen.save())
    assert other.events.filters.value().at_least is EventLevel.ERROR
    assert all(action.text() and not action.icon().isNull() for action in other.commands())
