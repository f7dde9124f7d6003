"""The matrix of links: what was measured last from each node to each other one, what is wrong, and measuring anew."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from app.registry.records import LinkRecord
from app.ui.lists import Lists
from app.ui.nodes import links_dialog
from app.ui.nodes.links_dialog import LinksDialog, cell_text
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
        [dialog.model.index(row, column).data() for column in range(dialog.model.columnCount())]
        for row in range(dialog.model.rowCount())
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
    dialog.table.setCurrentIndex(dialog.model.index(1, 0))
    assert dialog.said.text().startswith("Jitter") and "firewall" not in dialog.said.text()

    quiet_workbench.cluster.take_lists(Lists(links=(a_link(5, 2, 1, rtt=0.0008), *links)))
    assert cells(dialog)[1][0].startswith("800 µs") and dialog.table.currentIndex().row() == 1


def test_of_hundreds_of_nodes_only_the_cells_that_are_seen_are_made(
    quiet_workbench: Workbench, window: QWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(quiet_workbench.cluster, nodes=300)
    made: list[object] = []
    monkeypatch.setattr(links_dialog, "cell_text", lambda *of: made.append(of) or cell_text(*of))
    dialog = LinksDialog(quiet_workbench, window)
    silent = tuple(a_link(number, 1, number, "silent") for number in range(2, 301))
    with qtbot.waitExposed(dialog):
        dialog.show()
    quiet_workbench.cluster.take_lists(Lists(links=silent))
    dialog.table.grab()
    assert 0 < len(made) < 5_000 < dialog.model.rowCount() ** 2
    assert dialog.said.text().count("\n") < 10 and "291 more" in dialog.said.text()


def test_measuring_without_nodes_says_why_it_cannot_be(workbench: Workbench, window: QWidget, qtbot: QtBot) -> None:
    dialog = LinksDialog(workbench, window)
    qtbot.mouseClick(dialog.measure_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "two nodes" in dialog.said.text(), timeout=15_000)
    assert dialog.measure_button.isEnabled()
