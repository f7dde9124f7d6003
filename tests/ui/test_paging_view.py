"""The table of a paged model: what is selected and in sight stays, whatever comes in."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.registry import Registry
from app.ui.log.event_model import EventListing, EventModel
from app.ui.paging.paged_model import ID_ROLE
from app.ui.paging.paged_view import PagedView
from app.ui.workbench import Workbench

from .test_paging_model import add_events, write


@pytest.fixture
def view(workbench: Workbench, qtbot: QtBot) -> PagedView:
    add_events(workbench, qtbot, 300)
    model = EventModel(workbench)
    view = PagedView(model, workbench.theme)
    model.setParent(view)
    qtbot.addWidget(view)
    view.resize(800, 400)
    with qtbot.waitExposed(view):
        view.show()
    with qtbot.waitSignal(model.counted):
        model.show_listing(EventListing(source="test"))
    return view


def id_in_sight(view: PagedView) -> object:
    return view.model().index(view.rowAt(1), 0).data(ID_ROLE)


def scroll_to_row(view: PagedView, qtbot: QtBot, row: int) -> None:
    view.verticalScrollBar().setValue(row * view.verticalHeader().defaultSectionSize())
    qtbot.waitUntil(lambda: id_in_sight(view) is not None and view.paged.is_held == (row > 0))


def test_at_the_top_new_rows_are_followed_and_the_selection_goes_along(
    workbench: Workbench, view: PagedView, qtbot: QtBot
) -> None:
    view.selectRow(2)
    id = view.current_id()
    add_events(workbench, qtbot, 5, 300)
    qtbot.waitUntil(lambda: view.paged.total == 305)
    assert view.is_following and not view.pill.isVisible()
    qtbot.waitUntil(lambda: view.current_id() == id and view.currentIndex().row() == 7)


def test_away_from_the_top_nothing_moves_and_a_button_says_how_many_came(
    workbench: Workbench, view: PagedView, qtbot: QtBot
) -> None:
    told: list[bool] = []
    view.following_changed.connect(told.append)
    scroll_to_row(view, qtbot, 50)
    before = id_in_sight(view)
    add_events(workbench, qtbot, 5, 300)
    qtbot.waitUntil(view.pill.isVisible)
    assert (view.pill.text(), id_in_sight(view), view.paged.total) == ("5 new", before, 300)
    view.pill.click()
    qtbot.waitUntil(lambda: view.paged.total == 305)
    assert not view.pill.isVisible() and view.verticalScrollBar().value() == 0
    assert told == [False, True]


def test_rows_that_go_leave_what_is_in_sight_and_selected(workbench: Workbench, view: PagedView, qtbot: QtBot) -> None:
    scroll_to_row(view, qtbot, 50)
    view.selectRow(55)
    in_sight, selected = id_in_sight(view), view.current_id()
    gone = [view.model().index(row, 0).data(ID_ROLE) for row in range(20, 30)]

    def work(registry: Registry) -> None:
        registry.events._write(
            lambda database: registry.events._delete(database, registry.events._field("id").in_(gone))
        )

    write(workbench, qtbot, work)
    qtbot.waitUntil(lambda: view.paged.total == 290)
    assert (id_in_sight(view), view.current_id()) == (in_sight, selected)
    assert view.selected_ids() == (selected,)


def test_a_row_far_below_is_found_by_its_id(view: PagedView, qtbot: QtBot) -> None:
    view.select_id(7)
    qtbot.waitUntil(lambda: view.current_id() == 7)
    assert view.selected_ids() == (7,) and view.visualRect(view.currentIndex()).isValid()
    view.select_id(10**6)
    with qtbot.waitSignal(view.paged.placed):
        pass
    assert view.current_id() != 10**6


def test_a_jump_to_the_end_shows_the_oldest_rows(view: PagedView, qtbot: QtBot) -> None:
    view.setFocus()
    qtbot.keyClick(view, Qt.Key.Key_End)
    qtbot.waitUntil(lambda: str(view.model().index(299, 4).data()) == "event 0")
    assert view.currentIndex().row() == 299
    qtbot.keyClick(view, Qt.Key.Key_Home)
    assert view.currentIndex().row() == 0


def test_keys_become_signals(view: PagedView, qtbot: QtBot) -> None:
    view.selectRow(0)
    with qtbot.waitSignals([view.opened, view.copy_wanted, view.remove_wanted]):
        qtbot.keyClick(view, Qt.Key.Key_Return)
        qtbot.keyClick(view, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
        qtbot.keyClick(view, Qt.Key.Key_Delete)


def test_following_can_be_turned_off_at_the_top(workbench: Workbench, view: PagedView, qtbot: QtBot) -> None:
    view.set_following(False)
    add_events(workbench, qtbot, 1, 300)
    qtbot.waitUntil(view.pill.isVisible)
    assert view.paged.total == 300
    view.set_following(True)
    qtbot.waitUntil(lambda: view.paged.total == 301)
