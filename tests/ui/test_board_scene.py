"""The picture of the board: cards, blocks to scale, arrows, words, empty states, and what a hundred nodes cost."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QImage
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from app.children.work import NodeProgress
from app.cluster.node_state import Heard
from app.ui.board.scene.arrows import Port, routes
from app.ui.board.scene.block_item import tool_tip
from app.ui.board.scene.layout import GRIP_WIDTH, Density, bar_places, grid
from app.ui.board.scene.words import lane_text
from app.ui.board.state.lanes import Block, BlockKind, LaneSnapshot
from app.ui.cluster import Activity
from app.ui.workbench import Workbench
from tests.ui import simulated
from tests.ui.board_stand_in import MB, Stand, stand


def _block(stage: int | None, weights: int, kv: int = 0) -> Block:
    kind = BlockKind.PROPOSED if stage is not None else BlockKind.OTHER
    return Block(kind, stage, 0, 4, weights, kv, "made-up")


def _activity(deployment: str) -> tuple[Activity, ...]:
    return (Activity(deployment, 1, 1, (100, 100), (0, 0)),)


def test_widths_are_in_proportion_to_bytes_and_the_bar_is_the_budget() -> None:
    places = bar_places([_block(None, 500), _block(0, 1500, 500), _block(1, 1000)], 5000, 500.0)
    assert [place.width for place in places.blocks] == [50.0, 200.0, 100.0]
    assert [place.left for place in places.blocks] == [0.0, 50.0, 250.0]
    assert places.blocks[1].kv_width == 50.0
    assert places.end == 350.0 and places.budget == 500.0
    assert all(place.to_scale for place in places.blocks)


def test_a_tiny_shard_is_wide_enough_to_take_and_says_that_it_is_not_to_scale() -> None:
    block = _block(0, 10)
    (place,) = bar_places([block], 100_000, 500.0).blocks
    assert place.width == GRIP_WIDTH and not place.to_scale
    assert "wider than it is" in tool_tip(block, place)


def test_a_bar_that_lacks_memory_shows_where_the_budget_ends() -> None:
    places = bar_places([_block(0, 3000), _block(1, 1000)], 2000, 400.0)
    assert places.budget == 200.0
    assert sum(place.width for place in places.blocks) == 400.0


@pytest.mark.parametrize("count", [1, 2, 3, 5, 30, 100])
@pytest.mark.parametrize("width", [300.0, 760.0, 1600.0])
def test_cards_never_overlap_and_stay_within_the_width(count: int, width: float) -> None:
    made = grid(count, width, 120.0, Density.of(count))
    assert len(made.cards) == count
    for index, card in enumerate(made.cards):
        assert card.left() >= 0 and card.right() <= max(width, 336.0)
        assert not any(card.intersects(other) for other in made.cards[index + 1 :])


@pytest.mark.parametrize("columns_width", [330.0, 760.0, 1500.0])
def test_arrows_run_between_the_cards_and_touch_them_only_below_their_bars(columns_width: float) -> None:
    made = grid(7, columns_width, 120.0, Density.NORMAL)
    ports = [
        Port(index, card.left() + 40, card.left() + 80, card.bottom() - 12)
        for index, card in ((index, made.cards[index]) for index in (0, 3, 1, 6, 2))
    ]
    found = routes(made, ports)
    assert [route.is_return for route in found] == [False] * 4 + [True]
    texts = [card.adjusted(0, 0, 0, -12) for card in made.cards]
    for route in found:
        for a, b in zip(route.points, route.points[1:], strict=False):
            assert a.x() == b.x() or a.y() == b.y()
            line = QRectF(a, b).normalized().adjusted(0, 0.5, 0.1, 0.1)
            assert not any(line.intersects(text) for text in texts)


def test_cards_show_nodes_and_blocks_show_the_draft(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, nodes=2, budget=1_000 * MB)
    made.board.propose()
    scene = made.view.board_scene
    assert list(scene.cards) == [1, 2]
    blocks = scene.stage_blocks()
    draft = made.board.arrangement
    assert draft is not None and sorted(blocks) == [0, 1]
    for stage, item in blocks.items():
        card = scene.cards[draft.nodes[stage] or 0]
        share = item.rect.width() / card.bar.width()
        assert share == pytest.approx(draft.memory(stage) / (1_000 * MB), abs=0.001)
        assert item.place.kv_width / item.rect.width() == pytest.approx(
            draft.kv(stage) / draft.memory(stage), abs=0.001
        )
        assert item.block.kind is BlockKind.PROPOSED
    assert [arrow.route.is_return for arrow in scene.arrows] == [False, True]


def test_only_cards_with_other_figures_are_changed(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, nodes=3)
    cards = dict(made.view.board_scene.cards)
    with qtbot.waitSignal(made.board.changed):
        quiet_workbench.cluster.take_node_events([simulated.health(2, cpu=77.0)])
    scene = made.view.board_scene
    assert scene.cards == cards
    assert scene.cards[2].lane.node.report is not None and scene.cards[2].lane.node.report.cpu_percent == 77.0
    assert len(quiet_workbench.cluster.history(2)) == 2


def test_nodes_come_and_go(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, nodes=2)
    kept = made.view.board_scene.cards[1]
    simulated.fill(quiet_workbench.cluster, nodes=5, models=(made.model,))
    assert list(made.view.board_scene.cards) == [1, 2, 3, 4, 5]
    assert made.view.board_scene.cards[1] is kept
    simulated.fill(quiet_workbench.cluster, nodes=1, models=(made.model,))
    assert list(made.view.board_scene.cards) == [1]


def test_a_node_that_is_down_says_why(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench)
    with qtbot.waitSignal(made.board.changed):
        quiet_workbench.cluster.take_heard(2, Heard(False, reason="the connection was refused"))
    assert "down" in made.view.accessibleDescription()
    made.view.grab()
    assert "the connection was refused" in made.view.board_scene.cards[2].toolTip()


def test_memory_that_is_missing_is_said_in_words(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, budget=1_000 * MB)
    made.board.propose()
    simulated.fill(quiet_workbench.cluster, nodes=2, models=(made.model,), budget=500 * MB)
    qtbot.waitUntil(lambda: "missing" in made.view.accessibleDescription())
    assert all(item.short for item in made.view.board_scene.stage_blocks().values())


def test_the_board_is_told_in_words(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, budget=1_000 * MB)
    made.board.propose()
    text = made.view.accessibleDescription()
    assert text.startswith("Model made-up-8b. node-1: layers 0–")
    assert "of made-up-8b (proposed" in text and "free." in text
    made.load()
    assert "(loaded" in made.view.accessibleDescription()


def test_deploying_shows_how_far_each_node_is(
    qtbot: QtBot, quiet_workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stand(qtbot, quiet_workbench, budget=1_000 * MB)
    made.board.propose()
    progress = NodeProgress("sending", 1, "node-1", 400 * MB, 800 * MB, 100e6, 100 * MB)
    before = made.view.board_scene.cards[1].shape().boundingRect().height()
    lanes = tuple(replace(lane, progress=progress) for lane in made.board.lanes())
    monkeypatch.setattr(made.board, "lanes", lambda: lanes)
    made.board.changed.emit()
    assert made.view.board_scene.cards[1].shape().boundingRect().height() > before
    assert "Sending 400 of 800 MB (100 MB were there), 100 MB/s, 4 s left" in lane_text(lanes[0])
    assert not made.view.grab().isNull()


def _lit(made: Stand) -> list[bool]:
    return [arrow.is_lit for arrow in made.view.board_scene.arrows]


def test_arrows_light_up_while_activations_pass_and_then_nothing_runs(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, budget=1_000 * MB)
    made.board.propose()
    pulse = made.view.board_scene.pulse
    quiet_workbench.cluster.activity.emit(_activity("made-up"))
    assert not pulse.is_lit  # what is only proposed computes nothing
    made.load()
    quiet_workbench.cluster.activity.emit(_activity("another"))
    assert not pulse.is_lit
    quiet_workbench.cluster.activity.emit(_activity("made-up"))
    assert pulse.is_running and _lit(made) == [True, True]
    qtbot.waitUntil(lambda: made.view.board_scene.arrows[0].phase is not None)
    made.view.grab()
    qtbot.waitUntil(lambda: not pulse.is_running)
    assert not pulse.is_lit and _lit(made) == [False, False]


def test_without_animations_arrows_are_only_lit(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    quiet_workbench.settings.set("appearance/animations", False)
    made = stand(qtbot, quiet_workbench, budget=1_000 * MB)
    made.board.propose()
    made.load()
    quiet_workbench.cluster.activity.emit(_activity("made-up"))
    assert _lit(made) == [True, True] and not made.view.board_scene.pulse.is_running


def test_nothing_runs_on_a_hidden_board(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, budget=1_000 * MB)
    made.board.propose()
    made.load()
    quiet_workbench.cluster.activity.emit(_activity("made-up"))
    made.view.hide()
    assert not made.view.board_scene.pulse.is_running
    quiet_workbench.cluster.activity.emit(_activity("made-up"))
    assert not made.view.board_scene.pulse.is_running
    made.board.clear()
    assert made.view.board_scene.stage_blocks()  # not drawn anew while nobody sees it
    made.view.show()
    assert not made.view.board_scene.stage_blocks()


def test_without_nodes_the_ways_on_are_offered(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, nodes=0)
    page = made.view._no_nodes
    start, add = page.findChildren(QPushButton)
    assert page.isVisible()
    with qtbot.waitSignal(quiet_workbench.navigate) as told:
        qtbot.mouseClick(start, Qt.MouseButton.LeftButton)
    assert told.args == ["nodes", "start"]
    with qtbot.waitSignal(quiet_workbench.navigate) as told:
        qtbot.mouseClick(add, Qt.MouseButton.LeftButton)
    assert told.args == ["nodes", "add"]
    simulated.fill(quiet_workbench.cluster, nodes=1)
    assert not page.isVisible()


def test_without_a_model_the_board_says_what_to_do(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, choose=False)
    assert made.view.hint.isVisible() and "Drag a model here" in made.view.hint.head.text()
    made.board.choose_model(made.model.name)
    assert "Nothing is placed yet" in made.view.hint.head.text()
    made.board.propose()
    assert not made.view.hint.isVisible()


def test_a_change_of_theme_is_painted(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench)

    def corner() -> QColor:
        image: QImage = made.view.grab().toImage()
        return image.pixelColor(4, 4)

    light = corner()
    quiet_workbench.theme.apply("dark")
    try:
        assert corner().lightness() < light.lightness() / 2
    finally:
        quiet_workbench.theme.apply("light")


def test_zoom_keeps_the_cards_within_the_width_and_fit_shows_all(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, nodes=30)
    scene, view = made.view.board_scene, made.view
    columns = scene.columns
    view.fit()
    assert view.zoom < 1 and scene.columns > columns
    assert scene.sceneRect().height() * view.zoom <= view.viewport().height() + 1
    assert scene.sceneRect().width() * view.zoom <= view.width()
    view.grab()
    view.set_zoom(9.0)
    assert view.zoom == 2.0


def test_a_hundred_nodes_cost_little(qtbot: QtBot, quiet_workbench: Workbench) -> None:
    made = stand(qtbot, quiet_workbench, nodes=100, budget=200 * MB, layers=60)
    made.board.propose()
    scene, cluster = made.view.board_scene, quiet_workbench.cluster

    def milliseconds(work: object) -> float:
        begin = time.perf_counter()
        work()  # type: ignore[operator]
        return (time.perf_counter() - begin) * 1000

    def lanes_of(cpu: float) -> tuple[LaneSnapshot, ...]:
        cluster.take_node_events([simulated.health(node, cpu=cpu, budget=200 * MB) for node in cluster.nodes])
        return made.board.lanes()

    for cpu in (10.0, 20.0, 30.0):
        lanes_of(cpu)
    figures = []
    for cpu in (40.0, 50.0, 60.0, 70.0, 80.0):
        lanes_of(cpu)
        figures.append(milliseconds(scene.sync))
    assert min(figures) < 15, figures
    assert min(milliseconds(scene.rebuild) for _ in range(5)) < 15
