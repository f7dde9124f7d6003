"""With a real mouse on a real display: place a model by hand over real agents, deploy it, read its answer.

Run by test_real_mouse.py in a process of its own, since Qt's platform cannot change within one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from PySide6.QtCore import QPoint
from PySide6.QtWidgets import QAbstractItemView, QApplication, QGraphicsView, QPushButton, QToolButton, QWidget
from pytestqt.qtbot import QtBot

from app.cluster.node_state import NodeState
from app.models.demo import ensure_demo_model
from app.models.library import ModelLibrary
from app.paths import Home
from app.sharding.planning.aims import FITS
from app.ui.application import Application
from tests.conftest import CACHE
from tests.ui.board_points import block_point, boundary_point, card_point
from tests.ui.on_screen import Mouse

MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture
def application(qtbot: QtBot, qapp: QApplication, home: Home) -> Iterator[Application]:
    """The program with the demo's model in its library and three agents on this machine."""
    ensure_demo_model(ModelLibrary(CACHE / "models"))
    made = Application(qapp, Home(home.root, CACHE / "models").create())
    with qtbot.waitSignal(made.window.usable, timeout=30_000):
        made.start()
    made.window.showMaximized()
    launch = made.bridge.call(lambda controller, report: controller.launch_local(3, keep=False), "starting agents")
    with qtbot.waitSignal(launch.done, timeout=90_000):
        pass
    qtbot.waitUntil(
        lambda: [view.state for view in made.workbench.cluster.nodes.values()] == [NodeState.UP] * 3, timeout=30_000
    )
    yield made
    with qtbot.waitSignal(made.window.gone, timeout=60_000):
        made.window.end()


@pytest.fixture
def mouse() -> Iterator[Mouse]:
    made = Mouse()
    yield made
    made.close()


def middle(widget: QWidget) -> QPoint:
    return widget.mapToGlobal(widget.rect().center())


def beside_the_cards(view: QGraphicsView) -> QPoint:
    """Where a drop is meant for the board, not for one node."""
    area = view.viewport().rect().adjusted(3, 3, -3, -3)
    spots = (QPoint(x, y) for y in range(area.bottom(), area.top(), -8) for x in range(area.left(), area.right(), 8))
    return view.viewport().mapToGlobal(next(spot for spot in spots if view.itemAt(spot) is None))


def test_a_model_is_placed_by_hand_and_answers(application: Application, mouse: Mouse, qtbot: QtBot) -> None:
    window = application.window
    window.show_screen("board")
    board_screen = window.screens["board"]
    board, view = board_screen.board, board_screen.view
    library = window.findChild(QAbstractItemView, "board-library")
    qtbot.waitUntil(lambda: library.model().rowCount() == 1)
    board.aim_at(FITS)  # one node could hold it all
    qtbot.wait(300)  # the window manager, or the lack of one, settles

    # A model onto the board: a plan over all three nodes, as empty as they can stay.
    row = library.viewport().mapToGlobal(library.visualRect(library.model().index(0, 0)).center())
    with qtbot.waitSignal(view.dropped, timeout=15_000) as dropped:
        mouse.drag(row, beside_the_cards(view))
    assert dropped.args == ["model"]
    assert len(board.pipeline()) == 3, application.workbench.notices.banners
    assert not application.workbench.cluster.deployments, "a plan is only proposed"

    # The last shard to the node before: two nodes remain.
    second, third = board.pipeline()[1:]
    assert second is not None and third is not None
    qtbot.wait(300)  # the plan's words take their room
    card_point(view, second)  # in sight, and a part of it still so once the block is
    block = block_point(view, 2)
    with qtbot.waitSignal(view.dropped, timeout=15_000) as dropped:
        mouse.drag(block, card_point(view, second, scroll=False))
    assert dropped.args == ["shard"]
    qtbot.waitUntil(lambda: third not in board.pipeline())

    # The boundary between the two.
    before = board.boundaries()
    qtbot.wait(200)
    with qtbot.waitSignal(view.dropped, timeout=15_000) as dropped:
        mouse.drag(boundary_point(view, 0), boundary_point(view, 0, before[0] + 5))
    assert dropped.args == ["boundary"]
    assert board.boundaries()[0] > before[0]
    ranges = board.arrangement.ranges

    # Deploy, and talk to it.
    deploy = window.findChild(QPushButton, "board-deploy")
    mouse.click(middle(deploy))
    cluster = application.workbench.cluster
    qtbot.waitUntil(lambda: cluster.deployment_of(MODEL) is not None, timeout=90_000)
    shards = cluster.deployment_of(MODEL).shards
    assert tuple((shard.start_layer, shard.end_layer) for shard in shards) == ranges
    assert len({shard.node_id for shard in shards}) == 2

    mouse.click(middle(window.findChild(QToolButton, "navigate-chat")))
    qtbot.waitUntil(lambda: window.current_key == "chat")
    chat = window.screens["chat"]
    chat.open_with(MODEL)
    mouse.click(middle(window.findChild(QWidget, "chat-input")))
    mouse.type("What is the capital of France?", "Return")
    qtbot.waitUntil(lambda: chat.is_streaming, timeout=15_000)
    qtbot.waitUntil(lambda: not chat.is_streaming, timeout=60_000)
    assert "Paris" in chat.answer_text
    assert not {"torch", "transformers"} & set(sys.modules)
