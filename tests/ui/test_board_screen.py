"""The whole board: its commands and keys, what it remembers, and a model that is deployed to real agents from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QMessageBox, QPushButton
from pytestqt.qtbot import QtBot

from app.cluster.node_state import Heard, NodeState
from app.controller import Controller
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TokenPrompt
from app.jobs.works import register_model
from app.paths import Home
from app.sharding.planning.aims import FITS
from app.ui.board.board_screen import BoardScreen
from app.ui.board.state.figures import FIGURES_MILLISECONDS
from app.ui.board.state.lanes import BlockKind, Selection
from app.ui.notices import Notice
from app.ui.workbench import Workbench
from tests.ui.simulated import fill, health, model

SMALL, LARGE = model("small"), model("large", layers=40)


@pytest.fixture
def screen(quiet_workbench: Workbench, qtbot: QtBot) -> Iterator[BoardScreen]:
    fill(quiet_workbench.cluster, models=(SMALL, LARGE))
    made = BoardScreen(quiet_workbench)
    made.board.aim_at(FITS)  # which shares out what one node could hold
    qtbot.addWidget(made)
    made.resize(1200, 760)
    with qtbot.waitActive(made):
        made.show()
    yield made


def press(qtbot: QtBot, screen: BoardScreen, key: Qt.Key, *modifiers: Qt.KeyboardModifier) -> None:
    held = Qt.KeyboardModifier.ControlModifier
    for modifier in modifiers:
        held |= modifier
    qtbot.keyClick(screen.library.list, key, held)


def test_the_first_model_is_chosen_and_the_focus_is_in_the_library(screen: BoardScreen) -> None:
    assert screen.board.model_name == "small"
    assert screen.library.list.hasFocus()


def test_a_model_is_placed_by_hand_with_keys_alone(screen: BoardScreen, qtbot: QtBot) -> None:
    board, key, shift = screen.board, Qt.Key, Qt.KeyboardModifier.ShiftModifier
    press(qtbot, screen, key.Key_P)
    assert board.pipeline() == (1, 2, 3) and board.boundaries() == (4, 8)
    press(qtbot, screen, key.Key_Down)
    assert board.selection == Selection(1, 0, "small")
    press(qtbot, screen, key.Key_Right)
    assert board.boundaries() == (5, 8)
    press(qtbot, screen, key.Key_Left)
    assert board.boundaries() == (4, 8)
    press(qtbot, screen, key.Key_Right, shift)
    assert board.pipeline() == (2, 2, 3)
    press(qtbot, screen, key.Key_Left, shift)
    assert board.pipeline() == (1, 2, 3)
    press(qtbot, screen, key.Key_E)
    assert board.boundaries() == (2, 4, 8)
    press(qtbot, screen, key.Key_M)
    assert board.boundaries() == (4, 8)
    press(qtbot, screen, key.Key_Backspace)
    assert board.pipeline() == (None, 2, 3)
    for _ in range(8):
        press(qtbot, screen, key.Key_Z)
    assert board.pipeline() == (None,)
    press(qtbot, screen, key.Key_Z, shift)
    assert board.pipeline() == (1, 2, 3)


def test_every_command_has_a_picture_and_says_why_it_cannot_be_done(screen: BoardScreen) -> None:
    actions = screen.commands()
    assert all(not action.icon().isNull() and action.text() for action in actions)
    keys = [action.shortcut().toString() for action in actions if not action.shortcut().isEmpty()]
    assert len(keys) == len(set(keys)) >= 14
    said = {action.text(): action.statusTip() for action in actions if not action.isEnabled()}
    assert said["Split in two"] == "Select a shard first."
    assert said["Undeploy"] == "There is no deployment to take down."
    assert said["Cancel the deployment"] == "Nothing is being deployed."


def test_a_refused_command_is_told(screen: BoardScreen, qtbot: QtBot) -> None:
    screen.board.choose_model("large")
    screen.board.propose()
    screen.board.select(Selection(1, 0, "large"))
    told: list[Notice] = []
    screen.workbench.notices.toasted.connect(told.append)
    for node in (2, 3):
        screen.workbench.cluster.take_heard(node, Heard(False, reason="no power"))
    press(qtbot, screen, Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier)
    assert told[0].text == "Shard 1 stays where it is: node-3 is down: no power."


def test_navigating_to_a_model_proposes_a_plan_once(screen: BoardScreen) -> None:
    screen.open_with("large")
    assert screen.board.model_name == "large" and len(screen.board.pipeline()) == 3
    screen.board.clear()
    screen.board.move_shard(0, 2)
    screen.open_with("large")
    assert screen.board.pipeline() == (2, None, None)


def test_a_shard_has_the_same_menu_on_the_shelf_as_in_the_scene(screen: BoardScreen) -> None:
    screen.board.propose()
    texts = [action.text() for action in screen.view.stage_menu(1).actions() if action.text()]
    assert texts[:2] == ["Move shard to", "Swap with"] and "Split in two" in texts


def test_what_was_on_the_board_is_found_again(screen: BoardScreen, qtbot: QtBot) -> None:
    screen.board.choose_model("large")
    screen.board.propose()
    screen.board.select(Selection(2, 1, "large"))
    screen.splitter.setSizes([300, 600, 300])
    again = BoardScreen(screen.workbench)
    qtbot.addWidget(again)
    again.resize(screen.size())
    again.restore(screen.save())
    with qtbot.waitExposed(again):
        again.show()
    assert again.board.model_name == "large" and again.board.selection == Selection(2, 1, "large")
    assert again.board.arrangement == screen.board.arrangement
    assert again.splitter.sizes() == screen.splitter.sizes()


def test_a_state_that_makes_no_sense_is_passed_over(screen: BoardScreen) -> None:
    screen.restore({"board": {"model": 3, "drafts": 4}, "selection": "x", "widths": [1, "b"]})
    assert screen.board.model_name == "small"


def test_before_answers_are_interrupted_it_asks(screen: BoardScreen, qtbot: QtBot) -> None:
    done: list[str] = []
    screen.board.confirm_needed.emit("Deploying ends the answer that is being written.", lambda: done.append("yes"))
    box = screen.findChild(QMessageBox)
    assert box is not None and "ends the answer" in box.text()
    assert box.defaultButton() is box.button(QMessageBox.StandardButton.Cancel)
    box.button(QMessageBox.StandardButton.Cancel).click()
    qtbot.waitUntil(lambda: not box.isVisible())
    assert done == []
    screen.board.confirm_needed.emit("Deploying ends the answer that is being written.", lambda: done.append("yes"))
    box = next(box for box in screen.findChildren(QMessageBox) if box.isVisible())
    next(button for button in box.buttons() if button.text() == "Go on").click()
    assert done == ["yes"]


# --- with real agents ---


@pytest.fixture
def live(home: Home, tiny_library: Path, workbench: Workbench, qtbot: QtBot) -> Iterator[BoardScreen]:
    """The board over two agents on this machine and the model."""
    shutil.copytree(tiny_library / "tiny", home.models / "tiny")
    bridge, cluster = workbench.bridge, workbench.cluster

    async def prepare(controller: Controller, report: object) -> None:
        await controller.launch_local(2, keep=False)
        await controller.registry.call(lambda known: register_model(known, controller.library.get("tiny")))

    with qtbot.waitSignal(bridge.call(prepare, "starting agents").done, timeout=60_000):
        pass
    qtbot.waitUntil(lambda: [view.state for view in cluster.nodes.values()] == [NodeState.UP] * 2, timeout=30_000)
    qtbot.waitUntil(lambda: len(cluster.models) == 1, timeout=10_000)
    made = BoardScreen(workbench)
    made.board.aim_at(FITS)
    qtbot.addWidget(made)
    made.resize(1200, 760)
    with qtbot.waitActive(made):
        made.show()
    yield made

    async def clear(controller: object, report: object) -> None:
        for node in list(controller.registry.nodes.list()):  # type: ignore[attr-defined]
            await controller.remove_node(str(node.id))  # type: ignore[attr-defined]

    with qtbot.waitSignal(bridge.call(clear, "ending the agents").ended, timeout=60_000):
        pass


def click(qtbot: QtBot, screen: BoardScreen, name: str) -> None:
    button = screen.findChild(QPushButton, name)
    assert button is not None and button.isVisible() and button.isEnabled(), f"{name}: {button and button.toolTip()}"
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))


def test_a_draft_is_deployed_changed_deployed_again_and_taken_down(live: BoardScreen, qtbot: QtBot) -> None:
    board, cluster = live.board, live.workbench.cluster
    told: list[Notice] = []
    live.workbench.notices.toasted.connect(told.append)

    # It fails at first, says so, and can be tried again.
    assert board.description is not None
    config = board.description.path / "config.json"
    config.rename(config.with_suffix(".away"))
    click(qtbot, live, "board-propose")
    click(qtbot, live, "board-deploy")
    assert [job.view.title for job in live.workbench.jobs.busy()] == ["Deploy tiny on 2 nodes"]
    qtbot.waitUntil(lambda: board.deploying.failure is not None, timeout=60_000)
    assert live.deploy_panel.retry.isVisible() and not live.deploy_panel.previous.isVisible()
    config.with_suffix(".away").rename(config)
    live.deploy_panel.retry.click()
    qtbot.waitUntil(lambda: board.is_loaded and not board.is_deploying, timeout=60_000)
    assert not live.deploy_panel.isVisible() and live.workbench.notices.banners == []
    assert told[-1].text == "tiny is deployed on 2 nodes"
    assert [job.view.kind for job in live.workbench.jobs.jobs] == ["deploy", "deploy"]
    with qtbot.waitSignal(live.workbench.navigate) as went:
        told[-1].actions[0].run()
    assert went.args == ["chat", "tiny"]

    # Another placement replaces it.
    first = cluster.deployment_of("tiny")
    board.move_boundary(0, 3)
    click(qtbot, live, "board-deploy")
    qtbot.waitUntil(lambda: board.is_loaded and not board.is_deploying, timeout=60_000)
    second = cluster.deployment_of("tiny")
    assert first is not None and second is not None and first.record.id != second.record.id
    assert [(shard.start_layer, shard.end_layer) for shard in second.shards] == [(0, 3), (3, 4)]

    # The same stages on other nodes: they move while it answers.
    one, other = board.pipeline()
    assert one is not None and other is not None
    running = live.workbench.bridge.generate(
        "tiny", TokenPrompt((1, 2, 3)), GenerationParameters(max_tokens=300, ignore_eos=True)
    )
    with qtbot.waitSignal(running.events, timeout=20_000):
        pass
    board.move_shard(0, other)
    board.move_shard(1, one)
    assert live.plan_bar.deploy.text() == "Move" and live.plan_bar.state.text() == "Stages can move while it answers"
    with qtbot.waitSignal(running.ended, timeout=60_000) as ended:
        click(qtbot, live, "board-deploy")
    qtbot.waitUntil(lambda: board.is_loaded and not board.is_deploying, timeout=60_000)
    assert len(ended.args[0].token_ids) == 300 and ended.args[0].error is None
    moved = cluster.deployment_of("tiny")
    assert moved is not None and moved.record.id == second.record.id and board.pipeline() == (other, one)
    assert told[-1].text.startswith("Layers 0–2 went from ")

    # Or they are loaded there once more, and the draft is what is deployed again.
    board.swap_shards(0, 1)
    click(qtbot, live, "board-replicate")
    qtbot.waitUntil(lambda: len(cluster.replicas_of(moved)) == 1 and not board.is_deploying, timeout=60_000)
    assert board.is_loaded and cluster.deployment_of("tiny") == moved and told[-1].text.startswith("tiny has a replica")
    lane = next(lane for lane in board.lanes() if lane.node.id == one)
    copies = [block for block in lane.blocks if block.kind is BlockKind.REPLICA]
    assert [(block.start, block.end, block.echoes) for block in copies] == [(0, 3, 0)]

    # While it answers, it is not taken down without a question.
    answer = live.workbench.bridge.generate(
        "tiny", TokenPrompt((1, 2, 3)), GenerationParameters(max_tokens=400, ignore_eos=True)
    )
    with qtbot.waitSignal(answer.submitted, timeout=20_000):
        pass
    with qtbot.waitSignal(board.confirm_needed, timeout=20_000) as asked:
        click(qtbot, live, "board-undeploy")
    assert asked.args[0] == "Taking the deployment down ends the answer that is being written."
    assert cluster.deployment_of("tiny") is not None
    answer.cancel()
    asked.args[1]()
    qtbot.waitUntil(lambda: cluster.deployment_of("tiny") is None, timeout=30_000)
    assert not board.is_loaded and board.boundaries() == (3,), "the draft stays"


def test_what_nodes_report_is_taken_over_while_the_board_is_seen_and_when_it_is_shown_again(
    screen: BoardScreen, qtbot: QtBot
) -> None:
    cluster, board = screen.workbench.cluster, screen.board
    node = next(iter(cluster.nodes))
    with qtbot.waitSignal(board.changed, timeout=2000):
        cluster.take_node_events([health(node, cpu=12)])
    screen.hide()
    with qtbot.assertNotEmitted(board.changed, wait=2 * FIGURES_MILLISECONDS):
        cluster.take_node_events([health(node, cpu=50)])
    with qtbot.waitSignal(board.changed, timeout=100):
        screen.show()
