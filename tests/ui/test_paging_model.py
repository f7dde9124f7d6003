"""The paged model over a real registry: pages when they are looked at, new rows, rows that change and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from PySide6.QtCore import Qt
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

from app.registry import EventLevel, Registry, RequestStatus
from app.ui.log.event_model import EventListing, EventModel
from app.ui.paging.listing import PAGE, Asked, look, page_of, rows_of
from app.ui.paging.page_cache import KEPT, Page, PageCache
from app.ui.paging.paged_model import ID_ROLE, PLACEHOLDER
from app.ui.runs.run_models import RequestModel
from app.ui.runs.run_tables import RequestListing
from app.ui.workbench import Workbench

CHECKED = 60_000
"""Milliseconds in which a change is seen where Qt's rules go through all rows at every signal, and in which a thousand
rows are written; pytest-qt's own five seconds are too few where the machine has others to serve."""


def write(workbench: Workbench, qtbot: QtBot, work: Callable[[Registry], object]) -> None:
    with qtbot.waitSignal(workbench.bridge.read(work, "writing").done, timeout=CHECKED):
        pass


def add_events(workbench: Workbench, qtbot: QtBot, count: int, first: int = 0) -> None:
    def work(registry: Registry) -> None:
        for number in range(first, first + count):
            registry.events.add(EventLevel.INFO, "test", f"event {number}")

    write(workbench, qtbot, work)


def text(model: EventModel, row: int) -> str:
    return str(model.index(row, 4).data())


@pytest.fixture
def events(workbench: Workbench, qtbot: QtBot) -> EventModel:
    """250 events, counted."""
    add_events(workbench, qtbot, 250)
    model = EventModel(workbench)
    model.setParent(workbench)
    with qtbot.waitSignal(model.counted):
        model.show_listing(EventListing(source="test"))
    return model


def test_pages_count_from_the_oldest_row() -> None:
    assert (page_of(0, 250), page_of(249, 250)) == (2, 0)
    assert (rows_of(0, 250), rows_of(2, 250)) == ((150, 249), (0, 49))
    # A row that comes in at the top moves no page: the row behind the page's first one is the same one.
    assert page_of(149, 250) == page_of(150, 251) == 1


def test_a_row_is_read_when_it_is_looked_at(events: EventModel, qtbot: QtBot) -> None:
    assert events.rowCount() == 250
    assert text(events, 0) == "event 249"
    assert text(events, 249) == PLACEHOLDER
    assert events.index(249, 0).data(ID_ROLE) is None
    qtbot.waitUntil(lambda: text(events, 249) == "event 0")
    assert text(events, 100) == "event 149"


def test_new_rows_come_in_at_the_top_and_nothing_is_read_anew(
    workbench: Workbench, events: EventModel, qtbot: QtBot
) -> None:
    resets: list[int] = []
    events.modelReset.connect(lambda: resets.append(1))
    with qtbot.waitSignal(events.rowsInserted) as inserted:
        add_events(workbench, qtbot, 3, 250)
    assert inserted.args is not None and inserted.args[1] == 0
    qtbot.waitUntil(lambda: events.total == 253 and text(events, 0) == "event 252")
    assert text(events, 3) == "event 249" and resets == []


def test_while_held_new_rows_are_counted_and_not_shown(workbench: Workbench, events: EventModel, qtbot: QtBot) -> None:
    events.hold(True)
    add_events(workbench, qtbot, 4, 250)
    qtbot.waitUntil(lambda: events.newer == 4)
    assert (events.total, text(events, 0)) == (250, "event 249")
    events.hold(False)
    qtbot.waitUntil(lambda: events.total == 254 and text(events, 0) == "event 253")
    assert events.newer == 0


def test_rows_that_went_are_told_with_the_places_of_those_that_are_kept(
    workbench: Workbench, events: EventModel, qtbot: QtBot
) -> None:
    kept = events.index(10, 0).data(ID_ROLE)
    gone = [events.index(row, 0).data(ID_ROLE) for row in range(5)]
    events.kept_ids = lambda: (kept,)
    with qtbot.waitSignal(events.placed) as placed:
        write(workbench, qtbot, lambda registry: registry.events._write(
            lambda database: registry.events._delete(database, registry.events._field("id").in_(gone))))  # fmt: skip
    assert placed.args == [{kept: 5}]
    assert (events.total, events.index(5, 0).data(ID_ROLE)) == (245, kept)


def test_an_answer_for_an_earlier_listing_is_dropped(workbench: Workbench, events: EventModel, qtbot: QtBot) -> None:
    totals: list[int] = []
    events.counted.connect(lambda: totals.append(events.total))
    events.show_listing(EventListing(source="test", text="event 1"))
    events.show_listing(EventListing(source="test", text="event 24"))
    qtbot.waitUntil(lambda: bool(totals))
    with qtbot.waitSignal(workbench.bridge.read(lambda registry: None, "a round trip").done):
        pass
    assert totals == [11]  # 24 and 240 to 249


def test_a_model_at_rest_reads_nothing_and_catches_up(workbench: Workbench, events: EventModel, qtbot: QtBot) -> None:
    events.set_live(False)
    add_events(workbench, qtbot, 1, 250)
    assert events.total == 250 and not events._timer.isActive()
    with qtbot.waitSignal(events.rowsInserted):
        events.set_live(True)


def test_a_request_that_changes_is_shown_as_it_is(workbench: Workbench, qtbot: QtBot) -> None:
    model = RequestModel(workbench)
    model.setParent(workbench)
    write(workbench, qtbot, lambda registry: registry.requests.add(model_name="m", prompt="Hello"))
    with qtbot.waitSignal(model.counted):
        model.show_listing(RequestListing())
    assert model.index(0, 0).data() == "Waiting"
    write(workbench, qtbot, lambda registry: registry.requests.update(1, status=RequestStatus.FAILED, error="Lost."))
    qtbot.waitUntil(lambda: model.index(0, 0).data() == "Failed")
    assert model.index(0, 0).data(Qt.ItemDataRole.ToolTipRole) == "Lost."
    assert model.index(0, 0).data(Qt.ItemDataRole.DecorationRole) is not None


# Qt's rules go through all rows at every signal: no more than a page and a few, and a few where they are in Python.
@pytest.mark.parametrize(("force_py", "count"), [(False, 104), (True, 12)])
def test_qt_finds_no_fault_while_rows_come_change_and_go(
    workbench: Workbench, qtbot: QtBot, qtmodeltester: ModelTester, force_py: bool, count: int
) -> None:
    model = RequestModel(workbench)
    model.setParent(workbench)
    model.show_listing(RequestListing())
    qtmodeltester.check(model, force_py=force_py)

    def work(registry: Registry) -> None:
        for number in range(count):
            registry.requests.add(model_name="m", prompt=f"prompt {number}")

    write(workbench, qtbot, work)
    qtbot.waitUntil(lambda: model.total == count and model.index(count - 1, 2).data() == "prompt 0", timeout=CHECKED)
    write(workbench, qtbot, lambda registry: registry.requests.update(count, status=RequestStatus.COMPLETED))
    qtbot.waitUntil(lambda: model.index(0, 0).data() == "Done", timeout=CHECKED)
    write(workbench, qtbot, lambda registry: [registry.requests.remove(id) for id in (count, count // 2)])
    qtbot.waitUntil(
        lambda: model.total == count - 2 and model.index(0, 2).data() == f"prompt {count - 2}", timeout=CHECKED
    )
    model.show_listing(RequestListing(status=frozenset({RequestStatus.COMPLETED})))
    qtbot.waitUntil(lambda: model.total == 0, timeout=CHECKED)


def test_an_unreadable_registry_is_told(workbench: Workbench, qtbot: QtBot) -> None:
    class Broken(EventListing):
        def count(self, registry: Registry, after: int | None, last: int | None) -> int:
            raise OSError("gone")

    model = EventModel(workbench)
    model.setParent(workbench)
    with qtbot.waitSignal(model.failed):
        model.show_listing(Broken())
    model.show_listing(EventListing(source="nobody"))
    qtbot.waitUntil(lambda: model.is_counted)


def test_a_look_says_whether_places_have_to_be_found_anew(workbench: Workbench, qtbot: QtBot) -> None:
    seen: list[object] = []

    def work(registry: Registry) -> None:
        ids = [registry.events.add(EventLevel.INFO, "test", str(n)).id for n in range(3)]
        listing = EventListing(source="test")
        first = look(listing, registry, Asked())
        registry.events.add(EventLevel.INFO, "test", "later")
        asked = Asked(first.last, first.total)
        seen.append((first.total, first.is_moved, first.last == ids[-1]))
        seen.append(look(listing, registry, asked))
        seen.append(look(listing, registry, replace(asked, held=True)))
        seen.append(look(listing, registry, replace(asked, total=9, ids=(ids[0], 10**6))).places)

    write(workbench, qtbot, work)
    first, followed, held, places = seen
    assert first == (3, True, True)
    assert (followed.total, followed.newer, followed.is_moved) == (4, 1, False)  # type: ignore[attr-defined]
    assert (held.total, held.newer, held.is_moved) == (3, 1, False)  # type: ignore[attr-defined]
    assert list(places.values()) == [3]  # type: ignore[attr-defined]


def test_the_cache_keeps_what_was_used_last() -> None:
    cache = PageCache()
    total = (KEPT + 1) * PAGE
    for number in range(KEPT):
        cache.put(Page(number, tuple(range(number * PAGE, (number + 1) * PAGE))))
    assert not cache.needs(0, total)  # used: the second one is now the oldest
    cache.put(Page(KEPT, tuple(range(KEPT * PAGE, total))))
    assert cache.record(total - 1, total) == 0
    assert cache.record(total - 1 - PAGE, total) is None
    cache.age()
    assert cache.needs(0, total) and cache.record(total - 1, total) == 0
    assert not cache.put(Page(0, tuple(range(PAGE)))) and not cache.needs(0, total)
