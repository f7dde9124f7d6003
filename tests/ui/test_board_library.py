"""The library and the shelf: rows that come, change and go, dragging out, dropping in, menus, the empty state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QModelIndex, QPoint, Qt, QUrl
from PySide6.QtWidgets import QMenu, QPushButton
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

from app.sharding.planning.aims import FITS
from app.ui.board.panes.library_model import LibraryModel
from app.ui.board.panes.library_pane import LibraryPane
from app.ui.board.panes.shelf import ShelfModel, ShelfPane
from app.ui.board.panes.two_lines import Row
from app.ui.board.state.board_model import BoardModel
from app.ui.board.state.lanes import MIME_MODEL, MIME_SHARD, Selection
from app.ui.lists import Lists
from app.ui.workbench import Workbench
from tests.ui.simulated import deployment, fill, model

SMALL, LARGE = model("small"), model("large", layers=40)


@pytest.fixture
def board(quiet_workbench: Workbench) -> BoardModel:
    fill(quiet_workbench.cluster, models=(LARGE, SMALL))
    made = BoardModel(quiet_workbench, quiet_workbench)
    made.aim_at(FITS)  # which shares out what one node could hold
    return made


@pytest.fixture
def library(board: BoardModel, qtbot: QtBot) -> Iterator[LibraryPane]:
    pane = LibraryPane(board)
    qtbot.addWidget(pane)
    pane.resize(260, 400)
    with qtbot.waitExposed(pane):
        pane.show()
    yield pane


@pytest.fixture
def shelf(board: BoardModel, qtbot: QtBot) -> Iterator[ShelfPane]:
    board.choose_model("small")
    pane = ShelfPane(board)
    qtbot.addWidget(pane)
    pane.resize(260, 400)
    with qtbot.waitExposed(pane):
        pane.show()
    yield pane


def names(rows: LibraryModel) -> list[str]:
    return [rows.index(row).data() for row in range(rows.rowCount())]


def entries(menu: QMenu) -> dict[str, bool]:
    """What a menu offers, and whether it can be chosen."""
    return {action.text(): action.isEnabled() for action in menu.actions() if not action.isSeparator()}


@pytest.mark.parametrize("force_py", [False, True])
def test_the_library_follows_its_models_row_by_row(
    quiet_workbench: Workbench, qtmodeltester: ModelTester, force_py: bool
) -> None:
    rows = LibraryModel(quiet_workbench.cluster, quiet_workbench)
    qtmodeltester.check(rows, force_py=force_py)
    take = quiet_workbench.cluster.take_lists
    resets: list[object] = []
    rows.modelReset.connect(lambda: resets.append(1))
    a, b, c = model("a"), model("b"), model("c")
    for wanted in ((b,), (a, b), (a, b, c), (a, c), (a, model("c", layers=3)), ()):
        take(Lists(models=wanted))
        assert names(rows) == [each.name for each in wanted]
    assert not resets, "the selection would be lost"
    take(Lists(models=(a, b)))
    take(Lists(models=(b, a)))
    assert names(rows) == ["b", "a"]


def test_a_row_says_what_a_model_is_and_whether_it_is_deployed(board: BoardModel) -> None:
    rows = LibraryModel(board.workbench.cluster, board)
    small = rows.row_of("small")
    assert small.data(Row.SUBTITLE) == "340 M · 12 layers · 1.4 GB"
    assert small.data(Row.TAG) == ""
    board.workbench.cluster.take_lists(Lists(deployments=(deployment("a", SMALL, [(1, 0, 12)]),)))
    assert small.data(Row.TAG) == "deployed"
    assert "deployed" in small.data(Qt.ItemDataRole.AccessibleTextRole)


def test_a_model_is_dragged_by_its_name(board: BoardModel) -> None:
    rows = LibraryModel(board.workbench.cluster, board)
    data = rows.mimeData([rows.row_of("small")])
    assert data.data(MIME_MODEL).data() == b"small"
    assert rows.flags(rows.row_of("small")) & Qt.ItemFlag.ItemIsDragEnabled


def test_folders_and_gguf_files_can_be_dropped_and_others_not(board: BoardModel, qtbot: QtBot, tmp_path: Path) -> None:
    rows = LibraryModel(board.workbench.cluster, board)
    folder, text = tmp_path / "Qwen2.5-0.5B", tmp_path / "notes.txt"
    folder.mkdir()
    text.write_text("no model")

    def dragged(*paths: Path) -> QMimeData:
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        return data

    copy, nowhere = Qt.DropAction.CopyAction, QModelIndex()
    assert not rows.canDropMimeData(dragged(text), copy, -1, -1, nowhere)
    assert not rows.canDropMimeData(rows.mimeData([rows.index(0)]), copy, -1, -1, nowhere)
    wanted = dragged(folder, text, tmp_path / "model.GGUF")
    assert rows.canDropMimeData(wanted, copy, -1, -1, nowhere)
    with qtbot.waitSignal(rows.paths_dropped) as dropped:
        rows.dropMimeData(wanted, copy, -1, -1, nowhere)
    assert dropped.args == [(folder, tmp_path / "model.GGUF")]


def test_choosing_a_row_chooses_the_model_and_the_other_way_round(library: LibraryPane, board: BoardModel) -> None:
    library.list.setCurrentIndex(library.model.row_of("small"))
    assert board.model_name == "small" and board.selection == Selection(model="small")
    board.choose_model("large")
    assert library.list.currentIndex().data() == "large"


def test_enter_on_a_row_asks_for_a_plan(library: LibraryPane, qtbot: QtBot) -> None:
    library.list.setCurrentIndex(library.model.row_of("small"))
    with qtbot.waitSignal(library.proposed) as proposed:
        qtbot.keyClick(library.list, Qt.Key.Key_Return)
    assert proposed.args == ["small"]


def test_a_models_menu_does_what_dragging_does(library: LibraryPane, board: BoardModel) -> None:
    menu = library.menu_for("large")
    offered = entries(menu)
    assert offered["Propose a plan"] and offered["Remove from the library…"]
    place = next(action.menu() for action in menu.actions() if action.text() == "Place on node")
    assert isinstance(place, QMenu)
    assert entries(place) == {f"node-{n} – needs 4.5 GB, 4 GB free": False for n in (1, 2, 3)}
    next(action for action in menu.actions() if action.text() == "Propose a plan").trigger()
    assert board.model_name == "large" and len(board.pipeline()) == 3


def test_a_deployed_model_cannot_be_removed(library: LibraryPane, board: BoardModel, qtbot: QtBot) -> None:
    board.workbench.cluster.take_lists(Lists(deployments=(deployment("a", SMALL, [(1, 0, 12)]),)))
    menu = library.menu_for("small")
    assert entries(menu)["Remove from the library…"] is False
    with qtbot.waitSignal(board.workbench.navigate) as went:
        next(action for action in menu.actions() if action.text() == "Open chat").trigger()
    assert went.args == ["chat", "small"]


def test_an_empty_library_says_what_to_do(quiet_workbench: Workbench, qtbot: QtBot) -> None:
    pane = LibraryPane(BoardModel(quiet_workbench, quiet_workbench))
    qtbot.addWidget(pane)
    with qtbot.waitExposed(pane):
        pane.show()
    buttons = [button for button in pane.findChildren(QPushButton) if button.isVisible()]
    assert [button.text() for button in buttons] == ["Get the demo model", "Add a model…"]
    fill(quiet_workbench.cluster, models=(SMALL,))
    assert pane.list.isVisible() and not buttons[0].isVisible()


@pytest.mark.parametrize("force_py", [False, True])
def test_the_shelf_follows_the_draft(board: BoardModel, qtmodeltester: ModelTester, force_py: bool) -> None:
    rows = ShelfModel(board, board)
    qtmodeltester.check(rows, force_py=force_py)
    resets: list[object] = []
    rows.modelReset.connect(lambda: resets.append(1))
    board.choose_model("small")
    for change, count in (
        (board.propose, 3), (lambda: board.set_shards(7), 7), (lambda: board.merge_stages(0), 6),
        (lambda: board.move_shard(0, 2), 6), (lambda: board.choose_model("large"), 1),
        (lambda: board.choose_model(None), 0),
    ):  # fmt: skip
        change()
        assert rows.rowCount() == count == len(board.pipeline())
    assert not resets


def test_a_shards_row_says_its_layers_size_and_node(shelf: ShelfPane, board: BoardModel) -> None:
    board.place_model("small", 2)
    row = shelf.model.index(0)
    assert row.data() == "Layers 0–11"
    assert row.data(Row.SUBTITLE) == "1.5 GB · node-2"
    board.unplace(0)
    assert row.data(Row.SUBTITLE) == "1.5 GB · not placed"
    assert shelf.model.mimeData([row]).data(MIME_SHARD).data() == b"0"


def test_the_number_of_shards_is_set_and_shown(shelf: ShelfPane, board: BoardModel) -> None:
    shelf.count.setValue(4)
    assert len(board.pipeline()) == 4
    board.undo_stack.undo()
    assert shelf.count.value() == 1
    assert shelf.count.maximum() == 12


def test_a_clicked_shard_is_selected_and_the_other_way_round(shelf: ShelfPane, board: BoardModel, qtbot: QtBot) -> None:
    board.propose()
    at = shelf.list.visualRect(shelf.model.index(1)).center()
    qtbot.mouseClick(shelf.list.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert board.selection == Selection(2, 1, "small")
    board.select(Selection(1, 0, "small"))
    assert shelf.list.currentIndex().row() == 0


def test_the_menu_of_a_shard_is_asked_for_where_it_is(shelf: ShelfPane, qtbot: QtBot) -> None:
    at = shelf.list.visualRect(shelf.model.index(0)).center()
    with qtbot.waitSignal(shelf.menu_wanted) as wanted:
        shelf.list.customContextMenuRequested.emit(at)
    assert wanted.args == [0, shelf.list.viewport().mapToGlobal(at)]
    with qtbot.assertNotEmitted(shelf.menu_wanted):
        shelf.list.customContextMenuRequested.emit(QPoint(5, 390))
