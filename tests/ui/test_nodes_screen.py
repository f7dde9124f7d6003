"""The Nodes screen as its user meets it: pages, actions by selection, graphs, what it remembers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QGuiApplication
from PySide6.QtWidgets import QAbstractButton, QDialog, QToolButton
from pytestqt.qtbot import QtBot

from app.cluster.health import NodeDown
from app.cluster.node_state import NodeState
from app.launchers.launcher import Brought
from app.ui.lists import Lists
from app.ui.nodes.graph_series import Figure, NodeSeries
from app.ui.nodes.nodes_screen import NodesScreen
from app.ui.workbench import Workbench
from tests.ui.simulated import MB, deployment, fill, health, model, node_record


@pytest.fixture
def screen(quiet_workbench: Workbench, qtbot: QtBot) -> Iterator[NodesScreen]:
    made = NodesScreen(quiet_workbench)
    qtbot.addWidget(made)
    made.resize(1180, 740)
    yield made


def shown(screen: NodesScreen, qtbot: QtBot) -> Any:
    """Show the screen and wait for its graphs."""
    screen.show()
    qtbot.waitUntil(lambda: screen.graphs.grid is not None, timeout=20_000)
    return screen.graphs.grid


def command(screen: NodesScreen, text: str) -> QAction:
    return next(action for action in screen.commands() if action.text().rstrip("…") == text)


def enabled(screen: NodesScreen) -> set[str]:
    return {action.iconText() for action in screen.node_actions.about_nodes() if action.isEnabled()}


def test_without_nodes_the_nearest_ways_to_one_are_offered_and_the_others_one_click_away(screen: NodesScreen) -> None:
    fill(screen.workbench.cluster, nodes=0)
    page = screen._stack.currentWidget()
    buttons = [button.text() for button in page.findChildren(QAbstractButton)]
    assert buttons == ["Start agents here…", "Find machines…", "Add machines…"]
    assert screen.findChild(QToolButton, "nodes-machines").isEnabled()


def test_the_table_takes_over_when_a_node_comes_and_the_summary_counts(screen: NodesScreen) -> None:
    cluster = screen.workbench.cluster
    fill(cluster, nodes=0)
    fill(cluster, nodes=3)
    cluster.take_node_events([NodeDown(2, datetime.now(UTC), "timeout", "Gone.")])
    screen._look()
    assert screen._stack.currentWidget() is screen._splitter
    assert screen._summary.text() == "2 up, 1 down"


def test_actions_follow_what_is_selected(screen: NodesScreen) -> None:
    cluster = screen.workbench.cluster
    cluster.take_lists(Lists((node_record(1, here=True), node_record(2)), (), ()))
    cluster.take_node_events([health(1), health(2)])
    assert enabled(screen) == set()
    screen.open_with(1)
    everywhere = {"Drain", "Remove", "Copy address", "Copy details", "Show on board", "Show log"}
    assert enabled(screen) == everywhere | {"Stop agent", "Update agent"}
    screen.open_with(2)
    assert enabled(screen) == everywhere  # an agent elsewhere cannot be started or stopped from here
    cluster.take_node_events([NodeDown(1, datetime.now(UTC), "refused", "Nothing listens there.")])
    screen.open_with(1)
    assert enabled(screen) == everywhere - {"Drain"} | {"Start agent", "Update agent"}
    screen.select((1, 2))
    assert "Show log" not in enabled(screen) and "Remove" in enabled(screen)


def test_starting_a_stopped_agent_shows_it_starting_at_once(screen: NodesScreen) -> None:
    cluster = screen.workbench.cluster
    cluster.take_lists(Lists((node_record(1, here=True),), (), ()))
    cluster.take_node_events([NodeDown(1, datetime.now(UTC), "refused", "Nothing listens there.")])
    screen.open_with(1)
    command(screen, "Start agent").trigger()
    assert cluster.nodes[1].state is NodeState.STARTING
    assert screen.busy_with() == ["starting node-1"]


def test_address_and_details_are_copied(screen: NodesScreen) -> None:
    cluster, small = screen.workbench.cluster, model("SmolLM2")
    fill(cluster, nodes=3, models=(small,), deployments=(deployment("d", small, [(2, 0, 12)]),))
    screen.select((1, 2))
    command(screen, "Copy address").trigger()
    assert QGuiApplication.clipboard().text() == "10.0.0.1:7600\n10.0.0.2:7600"
    screen.select((2,))
    command(screen, "Copy details").trigger()
    copied = QGuiApplication.clipboard().text()
    assert "public key: " + "k" * 40 in copied and "layers 0–11 of SmolLM2" in copied


def test_other_screens_are_one_action_away(screen: NodesScreen) -> None:
    cluster, small = screen.workbench.cluster, model("SmolLM2")
    fill(cluster, nodes=2, models=(small,), deployments=(deployment("d", small, [(2, 0, 12)]),))
    went: list[tuple[str, object]] = []
    screen.workbench.navigate.connect(lambda where, what: went.append((where, what)))
    screen.select((2,))
    command(screen, "Show on board").trigger()
    command(screen, "Show log").trigger()
    assert went == [("board", "SmolLM2"), ("log", 2)]


def test_removing_asks_and_names_what_goes_down(screen: NodesScreen, qtbot: QtBot) -> None:
    cluster, small = screen.workbench.cluster, model("SmolLM2")
    cluster.take_lists(
        Lists((node_record(1, here=True), node_record(2)), (small,), (deployment("d", small, [(1, 0, 6), (2, 6, 12)]),))
    )
    screen.select((1, 2))
    command(screen, "Remove").trigger()
    dialog = screen.findChild(QDialog, "nodes-remove-dialog")
    for said in ("node-1 and node-2", "deployment of SmolLM2 goes down", "on this machine ends", "other machines"):
        assert said in dialog.consequences
    assert screen.busy_with() == []
    qtbot.mouseClick(dialog.remove, Qt.MouseButton.LeftButton)
    assert screen.busy_with() == ["removing node-1", "removing node-2"]


def test_a_ghost_says_why_it_is_one_and_all_ghosts_go_with_one_question(screen: NodesScreen, qtbot: QtBot) -> None:
    cluster = screen.workbench.cluster
    gone = replace(node_record(1), last_heartbeat=datetime.now(UTC) - timedelta(days=9))
    cluster.take_lists(Lists((gone, node_record(2), node_record(3)), (), ()))
    cluster.take_node_events([health(2), health(3)])
    screen.model.flush()
    screen._look()
    assert not screen.node_actions.remove_ghosts.isEnabled(), "it has not been asked yet"
    cluster.take_node_events([NodeDown(1, datetime.now(UTC), "timeout", "Gone."),
                              NodeDown(2, datetime.now(UTC), "timeout", "Gone.")])  # fmt: skip
    screen.model.flush()
    screen._look()
    assert "node-1 was last heard of 9 d ago" in screen.model.rows[0].reason
    assert screen.model.rows[1].reason == "Gone.", "it was there today"
    command(screen, "Remove ghosts").trigger()
    dialog = screen.findChild(QDialog, "nodes-remove-dialog")
    qtbot.mouseClick(dialog.remove, Qt.MouseButton.LeftButton)
    assert screen.busy_with() == ["removing node-1"]


def test_a_node_becomes_a_ghost_when_its_machine_comes_again(screen: NodesScreen) -> None:
    cluster = screen.workbench.cluster
    before = replace(node_record(1, name="box"), last_heartbeat=datetime.now(UTC) - timedelta(hours=2))
    again = replace(node_record(2, name="box"), created_at=datetime.now(UTC))
    cluster.take_lists(Lists((before, again), (), ()))
    cluster.take_node_events([NodeDown(1, datetime.now(UTC), "timeout", "Gone.")])
    screen.model.flush()
    assert screen.model.rows[0].reason == "Gone."
    cluster.take_node_events([health(2)])
    screen.model.flush()
    assert "box seems to have come again as node 2 (10.0.0.2:7600)" in screen.model.rows[0].reason


def test_a_filter_that_finds_nothing_says_so_and_a_wanted_node_is_shown_all_the_same(screen: NodesScreen) -> None:
    fill(screen.workbench.cluster, nodes=3)
    screen.filter.setText("not there")
    assert screen._nothing.isVisibleTo(screen) and not screen.table.isVisibleTo(screen)
    screen.open_with(2)
    assert screen.filter.text() == "" and screen.table.selected == (2,)


def test_what_was_open_is_found_again(screen: NodesScreen, qtbot: QtBot) -> None:
    cluster = screen.workbench.cluster
    fill(cluster, nodes=3)
    screen.table.sortByColumn(4, Qt.SortOrder.DescendingOrder)
    screen.select((2, 3))
    screen.graphs.set_minutes(5)
    again = NodesScreen(screen.workbench)
    qtbot.addWidget(again)
    again.restore(screen.save())
    assert set(again.table.selected) == {2, 3} and again.graphs.minutes == 5
    assert again.table.proxy.sortColumn() == 4
    again.restore({"sort": "x", "widths": None, "split": [1], "minutes": 77, "selected": [99]})  # out of date
    assert again.graphs.minutes == 5


# --- graphs ---


def test_the_graphs_show_the_selected_nodes_or_the_first_eight(screen: NodesScreen, qtbot: QtBot) -> None:
    fill(screen.workbench.cluster, nodes=12)
    grid = shown(screen, qtbot)
    assert grid.nodes == tuple(range(1, 9))
    assert screen.graphs.legend.text.endswith("and 4 more")
    screen.select((11, 3))
    assert set(grid.nodes) == {3, 11}
    assert grid.plots[Figure.GPU].item.scene() is None and grid.plots[Figure.CPU].item.scene() is not None, "no GPU"


def test_paused_graphs_stand_still_and_catch_up(screen: NodesScreen, qtbot: QtBot) -> None:
    cluster = screen.workbench.cluster
    fill(cluster, nodes=1)
    grid = shown(screen, qtbot)
    curve = grid.plots[Figure.CPU]._curves[0]
    screen.graphs.pause.setChecked(True)
    before = len(curve.xData)
    cluster.take_node_events([health(1, cpu=70), health(1, cpu=80)])
    for _ in range(12):
        grid.turn()
    assert len(curve.xData) == before
    screen.graphs.pause.setChecked(False)
    assert len(curve.xData) == before + 2 and curve.yData[-1] == 80


def test_hidden_graphs_cost_nothing(screen: NodesScreen, qtbot: QtBot) -> None:
    fill(screen.workbench.cluster, nodes=1)
    grid = shown(screen, qtbot)
    assert grid._timer.isActive()
    screen.hide()
    assert not grid._timer.isActive()


def test_zooming_one_graph_moves_all_in_time_and_reset_undoes_it(screen: NodesScreen, qtbot: QtBot) -> None:
    fill(screen.workbench.cluster, nodes=1)
    grid = shown(screen, qtbot)
    zoomed, other = grid.plots[Figure.CPU].item, grid.plots[Figure.ROUND_TRIP].item
    zoomed.setXRange(-200, -100, padding=0)
    zoomed.getViewBox().sigRangeChangedManually.emit([True, True])
    assert other.viewRange()[0] == pytest.approx([-200, -100])
    screen.graphs.reset.trigger()
    for plot in (zoomed, other):
        assert plot.viewRange()[0] == pytest.approx([-612, 12])
    screen.graphs.set_minutes(1)
    assert other.viewRange()[0] == pytest.approx([-61.2, 1.2])


def test_the_pointer_reads_every_curve(screen: NodesScreen, qtbot: QtBot) -> None:
    cluster = screen.workbench.cluster
    fill(cluster, nodes=2)
    cluster.take_node_events([health(1, cpu=61), health(2, cpu=7)])
    grid = shown(screen, qtbot)
    box = grid.plots[Figure.CPU].item.getViewBox()
    grid._on_moved(box.mapViewToScene(box.mapSceneToView(box.sceneBoundingRect().center()) * 0))
    grid._read()
    assert screen.graphs.legend.text == "node-1 61 %, node-2 7 %"
    assert screen.graphs._over.text() == "CPU, now"
    grid._pointer = None
    grid._read()
    assert screen.graphs.legend.text == "node-1, node-2"


def test_the_theme_reaches_the_graphs(screen: NodesScreen, qtbot: QtBot) -> None:
    fill(screen.workbench.cluster, nodes=1)
    grid = shown(screen, qtbot)
    theme = screen.workbench.theme
    try:
        theme.apply("dark")
        assert grid.plots[Figure.CPU]._curves[0].opts["pen"].color() == theme.colors.of(0)
        assert grid._view.backgroundBrush().color() == theme.colors.surface
    finally:
        theme.apply("light")


def test_a_series_breaks_where_the_node_was_away_and_keeps_ten_minutes(quiet_workbench: Workbench) -> None:
    cluster = quiet_workbench.cluster
    fill(cluster, nodes=1)
    start = datetime.now(UTC)
    series = NodeSeries()
    for second in (*range(1, 4), *range(20, 23)):
        event = health(1, cpu=float(second), used=2 * MB)
        cluster.take_node_events([type(event)(1, start + timedelta(seconds=second), event.rtt, event.report)])
        series.update(cluster.history(1))
    breaks = [str(value) for value in series.values(Figure.CPU)].count("nan")
    assert breaks == 1
    assert series.at(Figure.CPU, start.timestamp() + 21.2) == 21
    assert series.at(Figure.CPU, start.timestamp() + 10) is None
    for second in range(23, 1500):
        event = health(1, cpu=1.0)
        cluster.take_node_events([type(event)(1, start + timedelta(seconds=second), event.rtt, event.report)])
        series.update(cluster.history(1))
    times = series.times()
    assert times[-1] - times[0] >= 599 and (times[1:] > times[:-1]).all()


def test_a_hundred_beats_a_second_leave_the_window_free(screen: NodesScreen, qtbot: QtBot) -> None:
    """One turn with a tenth of 100 nodes and one graph of eight curves stays far from what a user would feel."""
    cluster = screen.workbench.cluster
    fill(cluster, nodes=100)
    grid = shown(screen, qtbot)
    started = time.thread_time()
    for turn in range(20):
        cluster.take_node_events([health(id, cpu=float(turn)) for id in range(1, 101) if id % 10 == turn % 10])
        screen.model.flush()
        grid.turn()
    assert (time.thread_time() - started) / 20 < 0.05


def test_what_a_launcher_has_brought_can_be_stopped_and_what_it_lost_is_a_ghost(screen: NodesScreen) -> None:
    cluster = screen.workbench.cluster
    records = (node_record(1), node_record(2))
    cluster.take_lists(Lists(records, (), (), brought={1: Brought("ray", "")}))
    cluster.take_node_events([health(1), health(2)])
    screen.open_with(2)
    assert "Stop agent" not in enabled(screen), "somebody has started it there"
    screen.open_with(1)
    assert {"Stop agent", "Update agent"} <= enabled(screen)
    cluster.take_lists(Lists(records, brought={1: Brought("ray", "Ray has no such node any more.")}))
    assert cluster.ghosts() == {}, "it answers"
    cluster.take_node_events([NodeDown(1, datetime.now(UTC), "timeout", "Gone.")])
    assert cluster.ghosts()[1].problem == "Ray has no such node any more."
    screen._look()
    assert "Remove ghosts" in enabled(screen)
