"""The table of nodes: what its cells say, that it tells of changes sparingly, how it sorts and filters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.cluster.health import NodeDown, NodeFrozen
from app.cluster.node_state import Heard
from app.ui.lists import Lists
from app.ui.nodes.node_row import NodeColumn
from app.ui.nodes.nodes_model import FLUSH_MILLISECONDS, NodeRole, NodesModel
from app.ui.nodes.nodes_proxy import NodesProxy
from app.ui.nodes.nodes_table import NodesTable
from app.ui.workbench import Workbench
from tests.ui.simulated import MB, deployment, fill, health, model, node_record


def text(table: Any, row: int, column: NodeColumn, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
    return table.index(row, column).data(role)


def names(table: Any) -> list[str]:
    return [text(table, row, NodeColumn.NAME) for row in range(table.rowCount())]


@pytest.mark.parametrize("force_py", [False, True])
@pytest.mark.parametrize("sorted_too", [False, True])
def test_the_model_is_sound_while_nodes_come_change_and_go(
    quiet_workbench: Workbench, qtmodeltester: Any, force_py: bool, sorted_too: bool
) -> None:
    cluster = quiet_workbench.cluster
    nodes = NodesModel(cluster)
    proxy = NodesProxy(nodes)
    proxy.sort(NodeColumn.CPU)
    checked = proxy if sorted_too else nodes
    qtmodeltester.check(checked, force_py=force_py)  # goes on watching every change below
    for count in (0, 3, 5, 2, 7, 0, 4):
        fill(cluster, nodes=count)
        nodes.flush()
        proxy.refresh()
        assert nodes.rowCount() == count == proxy.rowCount()
    cluster.take_lists(Lists(nodes=tuple(node_record(id) for id in (4, 2, 9))))  # another order
    assert names(nodes) == ["node-4", "node-2", "node-9"] and [nodes.place_of(id) for id in (4, 2, 9)] == [0, 1, 2]


def test_cells_say_what_a_node_is_and_does(quiet_workbench: Workbench) -> None:
    cluster = quiet_workbench.cluster
    small = model("SmolLM2", layers=30)
    fill(cluster, nodes=2, models=(small,), deployments=(deployment("d", small, [(1, 0, 15), (2, 15, 30)]),))
    cluster.take_node_events([health(1, cpu=12.4, used=1_200 * MB, rtt=0.0021)])
    nodes = NodesModel(cluster)
    assert text(nodes, 0, NodeColumn.ADDRESS) == "10.0.0.1:7600"
    assert text(nodes, 0, NodeColumn.STATE) == "Up"
    assert text(nodes, 0, NodeColumn.HEARTBEAT) == "now"
    assert text(nodes, 0, NodeColumn.CPU) == "12 %"
    assert text(nodes, 0, NodeColumn.MEMORY) == "1.2 of 4 GB"
    assert text(nodes, 0, NodeColumn.ROUND_TRIP) == "2.1 ms"
    assert text(nodes, 0, NodeColumn.SHARDS) == "layers 0–14 of SmolLM2"
    assert text(nodes, 1, NodeColumn.SHARDS) == "layers 15–29 of SmolLM2"
    assert text(nodes, 0, NodeColumn.CPU, NodeRole.SORT) == 12.4


def test_a_node_that_is_lost_says_why_and_shows_no_old_figures(quiet_workbench: Workbench) -> None:
    cluster = quiet_workbench.cluster
    fill(cluster, nodes=2)
    nodes = NodesModel(cluster)
    cluster.take_node_events([NodeDown(1, datetime.now(UTC), "timeout", "It has left 3 health beats unanswered.")])
    cluster.take_node_events([NodeFrozen(2, datetime.now(UTC), 40.0, 12.0)])
    nodes.flush()
    assert text(nodes, 0, NodeColumn.STATE) == "Down"
    assert "3 health beats" in text(nodes, 0, NodeColumn.STATE, Qt.ItemDataRole.ToolTipRole)
    assert text(nodes, 0, NodeColumn.STATE, NodeRole.ROW).reason == "It has left 3 health beats unanswered."
    assert text(nodes, 0, NodeColumn.CPU) == "–" == text(nodes, 0, NodeColumn.ROUND_TRIP)
    assert text(nodes, 0, NodeColumn.MEMORY) == "– of 4 GB"
    assert text(nodes, 1, NodeColumn.STATE) == "Frozen"


def test_many_beats_are_told_once_per_row_and_only_where_something_changed(
    quiet_workbench: Workbench, qtbot: QtBot
) -> None:
    cluster = quiet_workbench.cluster
    fill(cluster, nodes=4)
    nodes = NodesModel(cluster)
    spans: list[tuple[int, int, int, int]] = []
    nodes.dataChanged.connect(
        lambda first, last: spans.append((first.row(), last.row(), first.column(), last.column()))
    )
    nodes.flush()
    spans.clear()
    for cpu in range(1, 50):
        cluster.take_node_events([health(2, cpu=float(cpu)), health(3)])
    assert spans == []  # nothing before the next turn
    qtbot.waitUntil(lambda: bool(spans))
    assert spans == [(1, 1, NodeColumn.CPU, NodeColumn.CPU)]


def test_rows_are_made_while_somebody_looks_and_soon_after(quiet_workbench: Workbench, qtbot: QtBot) -> None:
    cluster = quiet_workbench.cluster
    fill(cluster, nodes=3)
    nodes = NodesModel(cluster)
    nodes.flush()
    nodes.set_live(False)
    with qtbot.assertNotEmitted(nodes.dataChanged, wait=2 * FLUSH_MILLISECONDS):
        cluster.take_node_events([health(2, cpu=77)])
    with qtbot.waitSignal(nodes.dataChanged, timeout=2000):
        nodes.set_live(True)
    assert text(nodes, 1, NodeColumn.CPU) == "77 %"


def test_a_live_column_is_put_in_order_later_and_at_once_when_asked(quiet_workbench: Workbench, qtbot: QtBot) -> None:
    cluster = quiet_workbench.cluster
    fill(cluster, nodes=3)
    cluster.take_node_events([health(1, cpu=10), health(2, cpu=20), health(3, cpu=30)])
    nodes = NodesModel(cluster)
    proxy = NodesProxy(nodes)
    proxy.sort(NodeColumn.CPU, Qt.SortOrder.DescendingOrder)
    assert names(proxy) == ["node-3", "node-2", "node-1"]
    cluster.take_node_events([health(1, cpu=99)])
    nodes.flush()
    assert names(proxy) == ["node-3", "node-2", "node-1"]  # rows do not jump about under the pointer
    proxy.sort(NodeColumn.CPU, Qt.SortOrder.DescendingOrder)
    assert names(proxy) == ["node-1", "node-3", "node-2"]
    cluster.take_node_events([health(2, cpu=100)])
    qtbot.waitUntil(lambda: names(proxy) == ["node-2", "node-1", "node-3"], timeout=5000)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (NodeColumn.ADDRESS, ["node-2", "node-9", "node-10"]),  # 10.0.0.9 before 10.0.0.10
        (NodeColumn.STATE, ["node-9", "node-2", "node-10"]),  # what is in trouble first
    ],
)
def test_columns_sort_by_what_they_mean(quiet_workbench: Workbench, column: NodeColumn, expected: list[str]) -> None:
    cluster = quiet_workbench.cluster
    cluster.take_lists(Lists(nodes=tuple(node_record(id) for id in (10, 2, 9))))
    cluster.take_node_events([health(10), NodeDown(9, datetime.now(UTC), "timeout", "Gone.")])
    cluster.take_heard(2, Heard(False, starting=True))
    nodes = NodesModel(cluster)
    proxy = NodesProxy(nodes)
    proxy.sort(column)
    assert names(proxy) == expected


def test_the_filter_looks_for_every_word_in_name_state_and_model(quiet_workbench: Workbench) -> None:
    cluster = quiet_workbench.cluster
    small = model("SmolLM2")
    fill(cluster, nodes=3, models=(small,), deployments=(deployment("d", small, [(1, 0, 6), (3, 6, 12)]),))
    nodes = NodesModel(cluster)
    proxy = NodesProxy(nodes)
    for words, expected in (
        ("smollm", ["node-1", "node-3"]),
        ("SmolLM2 NODE-3", ["node-3"]),
        ("up", ["node-1", "node-2", "node-3"]),
        ("nothing like this", []),
        ("", ["node-1", "node-2", "node-3"]),
    ):
        proxy.set_filter(words)
        assert names(proxy) == expected


def test_a_selection_stays_while_other_nodes_come_and_go(quiet_workbench: Workbench, qtbot: QtBot) -> None:
    cluster = quiet_workbench.cluster
    fill(cluster, nodes=4)
    table = NodesTable(NodesModel(cluster), quiet_workbench.theme)
    qtbot.addWidget(table)
    table.select((2, 4))
    assert table.selected == (2, 4)
    cluster.take_lists(Lists(nodes=tuple(node_record(id) for id in (2, 3, 4, 7))))
    assert table.selected == (2, 4)
    cluster.take_lists(Lists(nodes=tuple(node_record(id) for id in (2, 3))))
    assert table.selected == (2,)
