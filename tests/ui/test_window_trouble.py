"""What the window shows when something goes wrong, with real agents: frozen, killed, too small a node, closing."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PySide6.QtWidgets import QApplication, QLabel, QWidget
from pytestqt.qtbot import QtBot

from app.cluster.node_state import NodeState
from app.models.library import ModelLibrary
from app.paths import Home
from app.registry import Registry, RequestStatus
from app.ui.application import Application
from app.ui.chat.chat_screen import ChatScreen
from app.ui.chat.conversation import from_json
from app.ui.window.closing import AskDialog
from tests.ui.jobs_support import children

MODEL = "short-smollm"


@pytest.fixture(scope="module")
def shelf(short_smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library."""
    folder = tmp_path_factory.mktemp("models")
    ModelLibrary(folder).add(str(short_smollm))
    return folder


@pytest.fixture
def application(qtbot: QtBot, qapp: QApplication, home: Home, shelf: Path) -> Iterator[Application]:
    """The window with a model in its library and two agents of this machine."""
    made = Application(qapp, Home(home.root, shelf).create())
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


def are_up(application: Application) -> None:
    """Raises AssertionError, which tells how they are."""
    assert states(application) == [NodeState.UP] * 2, [
        (view.state, view.heard) for view in application.workbench.cluster.nodes.values()
    ]


def deploy(application: Application, qtbot: QtBot) -> None:
    call = application.bridge.call(
        lambda controller, report: controller.deploy(MODEL, layers="0-2,3-5", nodes=[1, 2]), "deploying"
    )
    with qtbot.waitSignal(call.done, timeout=90_000):
        pass
    qtbot.waitUntil(lambda: application.workbench.cluster.deployment_of(MODEL) is not None)


def ask(application: Application, qtbot: QtBot, text: str) -> ChatScreen:
    application.workbench.navigate.emit("chat", MODEL)
    chat = application.window.screens["chat"]
    assert isinstance(chat, ChatScreen)
    chat.ask(text)
    qtbot.waitUntil(lambda: len(chat.answer_text) > 20, timeout=60_000)
    return chat


def pid(application: Application, node: int) -> int:
    found = application.workbench.cluster.nodes[node].record.local_pid
    assert found is not None
    return found


def test_an_answer_goes_on_when_an_agent_freezes_and_when_one_is_killed(application: Application, qtbot: QtBot) -> None:
    deploy(application, qtbot)
    name = application.workbench.cluster.nodes[2].name
    chat = ask(application, qtbot, "Write a very long story about the sea.")

    os.kill(pid(application, 2), signal.SIGSTOP)
    qtbot.waitUntil(lambda: states(application)[1] in (NodeState.DOWN, NodeState.FROZEN), timeout=15_000)
    qtbot.waitUntil(lambda: any(name in banner.text for banner in application.workbench.notices.banners))
    goes_on(chat, qtbot)

    os.kill(pid(application, 2), signal.SIGCONT)
    qtbot.waitUntil(lambda: are_up(application), timeout=60_000)
    qtbot.waitUntil(lambda: not any(name in banner.text for banner in application.workbench.notices.banners))

    chat = ask(application, qtbot, "Write a very long story about a mountain.")
    os.kill(pid(application, 1), signal.SIGKILL)
    qtbot.waitUntil(lambda: states(application)[0] in (NodeState.DOWN, NodeState.STOPPED), timeout=15_000)
    goes_on(chat, qtbot)


def goes_on(chat: ChatScreen, qtbot: QtBot) -> None:
    """An answer of which a stage is known to be gone grows all the same. It is stopped then, and told of that."""
    had = len(chat.answer_text)
    qtbot.waitUntil(lambda: len(chat.answer_text) > had, timeout=60_000)
    chat.stop()
    qtbot.waitUntil(lambda: not chat.is_streaming, timeout=60_000)
    assert not chat.error_text
    assert re.search(r"interrupted [\d.]+ m?s, (not bit-)?exact", figures(chat))


def figures(chat: QWidget) -> str:
    return chat.findChild(QLabel, "chat-figures").text()


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
    kept = [from_json(file.read_bytes()) for file in (home.root / "chats").glob("*.json")]
    assert [conversation.messages[-1].text for conversation in kept] == [record.result]
    assert not [agent for agent in agents if agent.is_running() and agent.status() != psutil.STATUS_ZOMBIE]


def test_closing_during_a_deployment_and_a_cut_leaves_nothing_half_done(
    application: Application, qtbot: QtBot, home: Home, tmp_path: Path
) -> None:
    window, workbench = application.window, application.workbench
    workbench.navigate.emit("board", MODEL)
    board = window.screens["board"].board
    board.propose(MODEL)
    job = workbench.jobs.cut(MODEL, 4, tmp_path / "shards")
    qtbot.waitUntil(lambda: job.view.done_bytes > 0, timeout=60_000)
    board.deploy()
    qtbot.waitUntil(lambda: board.is_deploying, timeout=30_000)
    agents = [psutil.Process(pid(application, node)) for node in (1, 2)]
    workers = children()
    assert workers
    window.close()
    dialog = window.findChild(AskDialog)
    assert dialog is not None and len(window.under_way()) >= 2
    stop = next(button for button in dialog.children() if button.objectName() == "closing-stop")
    with qtbot.waitSignal(window.gone, timeout=60_000):
        stop.click()
    assert not [process for process in (*agents, *workers) if process.is_running()]
    assert not (tmp_path / "shards").exists(), "what was half-written is gone"
    with Registry.open(home.registry) as registry:
        assert {record.status.value for record in registry.deployments.list()} <= {"failed"}
        ended = sorted((record.kind, record.status.value) for record in registry.jobs.list())
        assert ended == [("cut", "cancelled"), ("deploy", "cancelled"), ("local", "done")]
        assert len(registry.nodes.list()) == 2


def test_what_does_not_fit_and_a_full_disk_are_said_with_figures(
    application: Application, qtbot: QtBot, small_disk: Path
) -> None:
    window, workbench = application.window, application.workbench
    workbench.navigate.emit("board", MODEL)
    screen = window.screens["board"]
    board = screen.board
    qtbot.waitUntil(lambda: board.model_name == MODEL)
    board.propose(MODEL)
    # More tokens to keep than the memory of this machine can hold.
    board.set_serving(replace(board.arrangement.serving, kv_tokens=10**7))
    proposed = board.arrangement
    verdict = board.judge_model(MODEL, 1)
    assert not verdict.allowed and re.search(r"needs [\d.]+ GB.*[\d.]+ GB free", verdict.text)
    assert not board.can_deploy[0]
    with qtbot.waitSignal(workbench.notices.toasted) as toasted:
        next(action for action in screen.commands() if action.text().startswith("Propose")).trigger()
    assert board.arrangement == proposed, "a plan that does not fit changes nothing"
    assert "does not fit" in toasted.args[0].text and "GB are missing" in toasted.args[0].text

    job = workbench.jobs.cut(MODEL, 2, small_disk / "shards")
    with qtbot.waitSignal(job.ended, timeout=20_000):
        pass
    qtbot.waitUntil(lambda: any(str(small_disk) in banner.text for banner in workbench.notices.banners))
    banner = next(banner for banner in workbench.notices.banners if str(small_disk) in banner.text)
    assert "MB" in banner.text and "Free some space" in banner.advice
    assert [action.text for action in banner.actions] == ["Retry"]
