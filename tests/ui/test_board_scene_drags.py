"""Dragging on the board, and the same by keyboard and menu."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QMimeData, QPoint, Qt
from PySide6.QtGui import QAction, QContextMenuEvent
from PySide6.QtWidgets import QApplication, QMenu
from pytestqt.qtbot import QtBot

from app.ui.board.scene import view as view_module
from app.ui.board.scene.board_scene import Spot
from app.ui.board.scene.spot_menu import SpotMenu
from app.ui.board.state.lanes import MIME_SHARD
from app.ui.notices import Level
from app.ui.workbench import Workbench
from tests.ui.board_points import block_point, boundary_point, card_point
from tests.ui.board_stand_in import MB, Stand, model_data, shard_data, stand

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def made(qtbot: QtBot, quiet_workbench: Workbench) -> Stand:
    """Two nodes that can hold a bit more than half of the model each."""
    return stand(qtbot, quiet_workbench, nodes=2, budget=1_000 * MB)


@pytest.fixture
def roomy(qtbot: QtBot, quiet_workbench: Workbench) -> Stand:
    """Three nodes of which each could hold the whole model."""
    return stand(qtbot, quiet_workbench, nodes=3, budget=4_000 * MB)


# --- models and shards ---


def test_a_model_dropped_on_the_board_is_planned(made: Stand, qtbot: QtBot) -> None:
    beside = made.view.viewport().mapToGlobal(QPoint(380, 500))
    assert made.drag_to(model_data(made.model.name), beside)
    assert "plan" in made.view.hint.head.text()
    with qtbot.waitSignal(made.view.dropped) as told:
        made.drop(model_data(made.model.name), beside)
    assert told.args == ["model"]
    assert made.board.pipeline() == (1, 2)


def test_a_model_dropped_on_a_card_goes_there_whole(roomy: Stand, qtbot: QtBot) -> None:
    data, at = model_data(roomy.model.name), card_point(roomy.view, 2)
    assert roomy.drag_to(data, at)
    card = roomy.view.board_scene.cards[2]
    assert card.is_target and card.verdict is not None and card.verdict.text.startswith("fits:")
    with qtbot.waitSignal(roomy.view.dropped):
        roomy.drop(data, at)
    assert roomy.board.pipeline() == (2,)
    assert card.verdict is None


def test_every_card_says_why_it_cannot_take_a_model_and_a_drop_changes_nothing(made: Stand, qtbot: QtBot) -> None:
    data, at = model_data(made.model.name), card_point(made.view, 1)
    assert not made.drag_to(data, at)
    captions = [card.verdict.text for card in made.view.board_scene.cards.values() if card.verdict is not None]
    assert len(captions) == len(made.view.board_scene.cards)
    assert all(caption.startswith("needs ") and caption.endswith("free") for caption in captions)
    made.view.grab()
    with qtbot.waitSignal(made.workbench.notices.toasted) as told, qtbot.assertNotEmitted(made.view.dropped):
        made.drop(data, at)
    assert told.args[0].level is Level.WARNING and "needs" in told.args[0].text
    assert made.board.pipeline() == (None,)


def test_a_shard_goes_from_card_to_card_and_back_by_undo(roomy: Stand, qtbot: QtBot) -> None:
    roomy.board.propose()
    before = roomy.board.pipeline()
    assert not roomy.drag_to(shard_data(0), block_point(roomy.view, 0))
    assert roomy.drag_to(shard_data(0), card_point(roomy.view, 3))
    assert roomy.view.board_scene.cards[3].verdict is not None
    assert roomy.view.board_scene.cards[1].verdict is None  # it lies there: neither a place nor a refusal
    with qtbot.waitSignal(roomy.view.dropped) as told:
        roomy.drop(shard_data(0), card_point(roomy.view, 3))
    assert told.args == ["shard"] and roomy.board.pipeline()[0] == 3
    roomy.board.undo_stack.undo()
    assert roomy.board.pipeline() == before


def test_leaving_the_board_takes_the_verdicts_away(roomy: Stand) -> None:
    roomy.drag_to(model_data(roomy.model.name), card_point(roomy.view, 1))
    roomy.leave()
    assert all(card.verdict is None for card in roomy.view.board_scene.cards.values())


def test_what_the_board_does_not_know_is_not_taken(roomy: Stand) -> None:
    data = QMimeData()
    data.setText("something else")
    assert not roomy.drag_to(data, card_point(roomy.view, 1))
    data.setData(MIME_SHARD, b"no number")
    assert not roomy.drag_to(data, card_point(roomy.view, 1))


def test_pulling_a_block_begins_a_drag_that_carries_the_shard(
    roomy: Stand, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy.board.propose()
    carried: list[bytes] = []
    real = view_module.shard_drag

    def watched(*arguments: object) -> object:
        drag = real(*arguments)  # type: ignore[arg-type]
        carried.append(bytes(drag.mimeData().data(MIME_SHARD).data()))
        assert not drag.pixmap().isNull()
        return drag

    monkeypatch.setattr(view_module, "shard_drag", watched)
    viewport, start = roomy.view.viewport(), roomy.mouse(block_point(roomy.view, 1))
    qtbot.mousePress(viewport, LEFT, pos=start)
    assert roomy.board.selection.stage == 1
    _move(roomy, start + QPoint(2, 0))
    assert not carried
    _move(roomy, start + QPoint(60, 20))
    assert carried == [b"1"]
    assert not any(item.taken for item in roomy.view.board_scene.stage_blocks().values())


# --- boundaries ---


def _move(made: Stand, at: QPoint) -> None:
    """Move with the button held, which QTest's mouseMove does not tell."""
    from PySide6.QtCore import QEvent, QPointF
    from PySide6.QtGui import QMouseEvent

    viewport = made.view.viewport()
    event = QMouseEvent(
        QEvent.Type.MouseMove, QPointF(at), QPointF(viewport.mapToGlobal(at)), Qt.MouseButton.NoButton, LEFT,
        Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip
    QApplication.sendEvent(viewport, event)


def _take_boundary(made: Stand, qtbot: QtBot, layer: int) -> QPoint:
    """Take boundary 0 and hold it where it would stand before `layer`."""
    start, end = made.mouse(boundary_point(made.view, 0)), made.mouse(boundary_point(made.view, 0, layer))
    qtbot.mousePress(made.view.viewport(), LEFT, pos=start)
    _move(made, end)
    return end


def test_dragging_a_boundary_moves_layers(made: Stand, qtbot: QtBot) -> None:
    made.board.propose()
    (before,) = made.board.boundaries()
    width = made.view.board_scene.stage_blocks()[0].rect.width()
    end = _take_boundary(made, qtbot, before + 1)
    assert made.view.figures.head.text() == f"Layers 0–{before} | {before + 1}–11"
    assert made.view.figures.body.text().count("of 1 GB") == 2
    assert made.view.board_scene.stage_blocks()[0].rect.width() > width
    assert made.board.boundaries() == (before,)
    with qtbot.waitSignal(made.view.dropped) as told:
        qtbot.mouseRelease(made.view.viewport(), LEFT, pos=end)
    assert told.args == ["boundary"]
    assert made.board.boundaries() == (before + 1,)
    assert not made.view.figures.isVisible()


def test_a_boundary_is_refused_where_a_node_would_lack_memory(made: Stand, qtbot: QtBot) -> None:
    made.board.propose()
    before = made.board.boundaries()
    end = _take_boundary(made, qtbot, 11)
    assert "needs" in made.view.figures.verdict.text()
    assert made.view.board_scene.handles[0].refused
    made.view.grab()
    with qtbot.assertNotEmitted(made.view.dropped):
        qtbot.mouseRelease(made.view.viewport(), LEFT, pos=end)
    assert made.board.boundaries() == before
    assert any("boundary" in banner.text for banner in made.workbench.notices.banners)
    assert made.view.board_scene.stage_blocks()[0].block.end == before[0]


def test_escape_lets_a_boundary_go_where_it_was(made: Stand, qtbot: QtBot) -> None:
    made.board.propose()
    before = made.board.boundaries()
    end = _take_boundary(made, qtbot, before[0] - 2)
    qtbot.keyClick(made.view, Qt.Key.Key_Escape)
    qtbot.mouseRelease(made.view.viewport(), LEFT, pos=end)
    assert made.board.boundaries() == before
    assert made.view.board_scene.stage_blocks()[0].block.end == before[0]


# --- keyboard and menus ---


def test_tab_goes_through_cards_and_blocks_and_out_at_the_end(made: Stand, qtbot: QtBot) -> None:
    made.board.propose()
    view = made.view
    visited = []
    for _ in range(4):
        assert view.focusNextPrevChild(True)
        visited.append(view.board_scene.focus)
    assert visited == [Spot(1), Spot(1, 0), Spot(2), Spot(2, 1)]
    assert view.board_scene.stage_blocks()[1].focused and not view.board_scene.cards[2].focused
    assert not view._keys.step(True)
    qtbot.keyClick(view, Qt.Key.Key_Home)
    assert view.board_scene.focus == Spot(1)
    qtbot.keyClick(view, Qt.Key.Key_Right)
    qtbot.keyClick(view, Qt.Key.Key_Return)
    assert (made.board.selection.node_id, made.board.selection.stage) == (1, 0)
    view.grab()


def test_keys_move_the_boundary_and_take_a_shard_off(made: Stand, qtbot: QtBot) -> None:
    made.board.propose()
    (before,) = made.board.boundaries()
    made.view.focus_spot(Spot(1, 0))
    qtbot.keyClick(made.view, Qt.Key.Key_Right, Qt.KeyboardModifier.ControlModifier)
    assert made.board.boundaries() == (before + 1,)
    made.view.focus_spot(Spot(2, 1))
    qtbot.keyClick(made.view, Qt.Key.Key_Left, Qt.KeyboardModifier.ControlModifier)
    assert made.board.boundaries() == (before,)
    qtbot.keyClick(made.view, Qt.Key.Key_Delete)
    assert made.board.pipeline() == (1, None)
    assert not made.view.board_scene.handles[0].isVisible()


def _entries(menu: QMenu) -> dict[str, QAction]:
    return {action.text(): action for action in menu.actions() if action.text()}


def test_the_menu_of_a_shard_has_every_drag(roomy: Stand) -> None:
    roomy.board.propose()
    (boundary, *_) = roomy.board.boundaries()
    entries = _entries(roomy.view.menu_for(Spot(1, 0)))
    assert {"Move shard to", "Swap with", "Split in two", "Merge with the next", "Take off its node"} <= set(entries)
    entries["Move its end one layer later"].trigger()
    assert roomy.board.boundaries()[0] == boundary + 1
    count = len(roomy.board.pipeline())
    _entries(roomy.view.menu_for(Spot(1, 0)))["Merge with the next"].trigger()
    assert len(roomy.board.pipeline()) == count - 1
    _entries(roomy.view.menu_for(Spot(1, 0)))["Split in two"].trigger()
    assert len(roomy.board.pipeline()) == count
    move = roomy.view.menu_for(Spot(1, 0)).findChildren(QMenu)[0]
    _entries(move)["node-3"].trigger()
    assert roomy.board.pipeline()[0] == 3


def test_entries_that_are_not_possible_say_why(made: Stand) -> None:
    made.board.propose()
    move = made.view.menu_for(Spot(1, 0)).findChildren(QMenu)[0]
    (entry,) = move.actions()
    assert not entry.isEnabled() and "needs" in entry.text()
    whole = _entries(made.view.menu_for(Spot(2)))["Place all of made-up-8b here"]
    assert not whole.isEnabled() and "free" in whole.toolTip()


def test_the_context_menu_key_opens_the_menu_of_the_focused_block(made: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    made.board.propose()
    made.view.focus_spot(Spot(1, 0))
    opened: list[tuple[QMenu, QPoint]] = []  # the platform without a screen has no popups
    monkeypatch.setattr(SpotMenu, "popup", lambda menu, at: opened.append((menu, at)))
    event = QContextMenuEvent(QContextMenuEvent.Reason.Keyboard, QPoint(), QPoint())
    QApplication.sendEvent(made.view.viewport(), event)
    ((menu, at),) = opened
    assert "Split in two" in _entries(menu)
    assert (at - block_point(made.view, 0)).manhattanLength() <= 2


# --- for a mouse from outside ---


def test_points_are_on_what_they_name(made: Stand) -> None:
    made.board.propose()
    view, scene = made.view, made.view.board_scene

    def at(point: QPoint) -> object:
        return view.mapToScene(made.mouse(point))

    block = scene.block_at(at(block_point(view, 1)))  # type: ignore[arg-type]
    assert block is not None and block.block.stage == 1
    card = scene.card_at(at(card_point(view, 2)))  # type: ignore[arg-type]
    assert card is scene.cards[2] and scene.block_at(at(card_point(view, 2))) is None  # type: ignore[arg-type]
    assert scene.handle_at(at(boundary_point(view, 0))) is scene.handles[0]  # type: ignore[arg-type]
    with pytest.raises(LookupError):
        block_point(view, 7)
