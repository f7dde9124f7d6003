"""The matrix of links: what was measured last from each node to each other one, what is wrong, and measuring anew."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from app.registry.records import LinkRecord
from app.ui.cluster import Lists
from app.ui.nodes.links_dialog import LinksDialog
from app.ui.workbench import Workbench
from tests.ui.simulated import fill

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def a_link(id: int, source: int, target: int, outcome: str = "measured", rtt: float = 0.0004) -> LinkRecord:
    works = outcome == "measured"
    return LinkRecord(
        id, source, target, outcome, "", rtt if works else None, rtt if works else None, 0.0 if works else None,
        0.0 if works else None, 390e6 if works else None, None, NOON,
    )  # fmt: skip


@pytest.fixture
def window(qtbot: QtBot) -> QWidget:
    widget = QWidget()
    qtbot.addWidget(widget)
    return widget


def cells(dialog: LinksDialog) -> list[list[str]]:
    return [
        [dialog.table.item(row, column).text() for column in range(dialog.table.columnCount())]
        for row in range(dialog.table.rowCount())
    ]


def test_each_direction_has_a_cell_and_what_is_wrong_is_said_below(quiet_workbench: Workbench, window: QWidget) -> None:
    fill(quiet_workbench.cluster, nodes=3)
    dialog = LinksDialog(quiet_workbench, window)
    assert cells(dialog) == [["", "–", "–"], ["–", "", "–"], ["–", "–", ""]]
    assert dialog.said.text() == "Nothing has been measured yet."
    links = (a_link(4, 1, 2, rtt=0.009), a_link(3, 2, 1), a_link(2, 1, 3, "silent"), a_link(1, 1, 2))
    quiet_workbench.cluster.take_lists(Lists(links=links))
    assert cells(dialog)[0] == ["", "9 ms\n390 MB/s\nhas changed", "does not work"]
    assert cells(dialog)[1] == ["400 µs\n390 MB/s", "", "–"]
    assert "firewall" in dialog.said.text() and "400 µs when measured at" in dialog.said.text()
    dialog.table.setCurrentCell(1, 0)
    assert dialog.said.text().startswith("Jitter") and "firewall" not in dialog.said.text()


def test_measuring_without_nodes_says_why_it_cannot_be(workbench: Workbench, window: QWidget, qtbot: QtBot) -> None:
    dialog = LinksDialog(workbench, window)
    qtbot.mouseClick(dialog.measure_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "two nodes" in dialog.said.text(), timeout=15_000)
    assert dialog.measure_button.isEnabled()
