"""What the window shows when something goes wrong, with real agents: frozen, killed, too small a node, closing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.paths import Home
from app.registry import Registry, RequestStatus
from app.ui.application import Application
from app.ui.cluster import NodeState
from app.ui.window.closing import AskDialog
from tests.conftest import CACHE

MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture
def application(qtbot: QtBot, qapp: QApplication, home: Home, smollm: Path) -> Iterator[Application]:
    """The window with the demo's model on two agents of this machine."""
    made = Application(qapp, Home(home.root, CACHE / "models").create())
    with qtbot.waitSignal(made.window.usable, timeout=30_000):
        made.start()
    launch = made.bridge.call(lambda controller, report: controller.launch_local(2, keep=False), "starting agents")
    with qtbot.waitSignal(launch.done, timeout=90_000):
        pass
    qtbot.waitUntil(lambda: states(made) == [NodeState.UP] * 2, timeout=30_000)
    yield made
    for view in made.workbench.cluster.nodes.values():
        if view.record.local_pid is not None and psutil.pid_exists(view.record.local_pid):
            os.kill(view.record.local_pid, signal.SIGCONT)
    if made.window.isVisible():
        with qtbot.waitSignal(made.window.gone, timeout=60_000):
            made.window.end()


def states(application: Application) -> list[NodeState]:
    return [view.state for view in application.workbench.cluster.nodes.values()]


def deploy(application: Application, qtbot: QtBot) -> None:
    call = application.bridge.call(
        lambda controller, report: controller.deploy(MODEL, layers="0-14,15-29", nodes=[1, 2]), "deploying"
    )
    with qtbot.waitSignal(call.done, timeout=90_000):
        pass
    qtbot.waitUntil(lambda: application.workbench.cluster.deployment_of(MODEL) is not None)


def ask(application: Application, qtbot: QtBot, text: str) -> object:
    application.workbench.navigate.emit("chat", MODEL)
    chat = application.window.screens["chat"]
    chat.ask(text)
    qtbot.waitUntil(lambda: len(chat.answer_text) > 20, timeout=60_000)
    return chat


def pid(application: Application, node: int) -> int:
    found = application.workbench.cluster.nodes[node].record.local_pid
    assert found is not None
    return found


def test_a_frozen_and_a_killed_agent_are_named_where_they_matter(application: Application, qtbot: QtBot) -> None:
    deploy(application, qtbot)
    name = application.workbench.cluster.nodes[2].name
    chat = ask(application, qtbot, "Write a very long story about the sea.")

    os.kill(pid(application, 2), signal.SIGSTOP)
    qtbot.waitUntil(lambda: not chat.is_streaming, timeout=30_000)
    assert len(chat.answer_text) > 20, "what was answered is kept"
    assert name in chat.error_text and chat.error_text.strip().endswith(".")
    qtbot.waitUntil(lambda: states(application)[1] in (NodeState.DOWN, NodeState.FROZEN), timeout=15_000)
    qtbot.waitUntil(lambda: any(name in banner.text for banner in application.workbench.notices.banners))
    banner = next(banner for banner in application.workbench.notices.banners if name in banner.text)
    assert MODEL in f"{banner.text} {banner.advice}", "the deployment that needs the node is named"

    os.kill(pid(application, 2), signal.SIGCONT)
    qtbot.waitUntil(lambda: states(application) == [NodeState.UP] * 2, timeout=30_000)
    qtbot.waitUntil(lambda: not any(name in banner.text for banner in application.workbench.notices.banners))

    chat = ask(application, qtbot, "Write a very long story about a mountain.")
    os.kill(pid(application, 2), signal.SIGKILL)
    qtbot.waitUntil(lambda: not chat.is_streaming, timeout=30_000)
    assert name in chat.error_text
    qtbot.waitUntil(lambda: states(application)[1] in (NodeState.DOWN, NodeState.STOPPED), timeout=15_000)


def test_closing_during_an_answer_asks_and_keeps_what_was_answered(
    application: Application, qtbot: QtBot, home: Home
) -> None:
    deploy(application, qtbot)
    chat = ask(application, qtbot, "Write a very long story about the sea.")
    agents = [psutil.Process(pid(application, node)) for node in (1, 2)]
    application.window.close()
    dialog = application.window.findChild(AskDialog)
    assert dialog is not None and application.window.isVisible() and chat.is_streaming
    stop = next(button for button in dialog.children() if button.objectName() == "closing-stop")
    with qtbot.waitSignal(application.window.gone, timeout=60_000):
        stop.click()
    with Registry.open(home.registry, lock=False) as registry:
        record = registry.requests.list()[0]
    assert record.status is RequestStatus.CANCELLED
    assert len(record.result) > 20 and record.token_ids
    assert not [agent for agent in agents if agent.is_running() and agent.status() != psutil.STATUS_ZOMBIE]
