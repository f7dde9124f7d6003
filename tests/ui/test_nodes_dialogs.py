"""The dialogs that bring nodes in, with a real controller: what they say when it goes wrong, and what they do."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from app.cluster.invitations import AGENT_STARTS, JoinCommand
from app.errors import NodeError
from app.launchers.launcher import RayWish
from app.launchers.ray import RayLauncher
from app.launchers.ssh_launching import FOLDER
from app.registry import JobStatus
from app.ui.nodes.add_dialog import AddNodeDialog
from app.ui.nodes.find_dialog import FindDialog
from app.ui.nodes.invite_dialog import InviteDialog, own_addresses
from app.ui.nodes.machines_dialog import MachinesDialog
from app.ui.nodes.node_actions import NodeActions
from app.ui.nodes.node_dialog import NodeDialog
from app.ui.nodes.ray_dialog import RayDialog
from app.ui.nodes.ssh_dialog import SshDialog
from app.ui.nodes.start_dialog import StartAgentsDialog
from app.ui.workbench import Workbench
from tests.cluster.test_meetings import Machine, waits
from tests.ssh_server import Server, fingerprint, needs_sshd, server
from tests.worker_agent.agent_process import running_agent
from worker_agent.wire.keys import Invitation, KeyPair

__all__ = ["server"]  # a fixture


@pytest.fixture
def window(qtbot: QtBot) -> QWidget:
    widget = QWidget()
    qtbot.addWidget(widget)
    return widget


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def press(qtbot: QtBot, button: QPushButton) -> None:
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def try_to_add(dialog: AddNodeDialog, qtbot: QtBot, address: str, key: str) -> str:
    """Type, press, wait; the kind of the problem that is shown."""
    dialog.address.setText(address)
    dialog.key.setText(key)
    press(qtbot, dialog.accept_button)
    qtbot.waitUntil(lambda: not dialog.is_busy, timeout=15_000)
    return dialog.problem.kind


def test_adding_says_what_is_wrong_keeps_what_was_typed_and_adds_at_last(
    workbench: Workbench, window: QWidget, qtbot: QtBot, tmp_path: Path
) -> None:
    dialog = AddNodeDialog(workbench, window)
    dialog.open()
    assert try_to_add(dialog, qtbot, "", "") == "bad_input"
    assert try_to_add(dialog, qtbot, "no port here", "x" * 40) == "bad_input"
    nobody = f"127.0.0.1:{free_port()}"
    stranger = KeyPair.make().public
    assert try_to_add(dialog, qtbot, nobody, stranger) == "refused"
    assert nobody in dialog.problem.text and "Start the agent" in dialog.problem.text
    assert (dialog.address.text(), dialog.key.text()) == (nobody, stranger)

    qtbot.waitUntil(lambda: "<key" not in dialog.command.text)
    trust = dialog.command.text.split("--trust=")[1].rstrip("'")
    with running_agent(tmp_path / "agent", f"--trust={trust}") as agent:
        address = agent.address.removeprefix("tcp://")
        assert try_to_add(dialog, qtbot, address, stranger) == "wrong_key"
        assert "Copy the key again" in dialog.problem.text
        assert workbench.cluster.nodes == {}
        with qtbot.waitSignal(dialog.added, timeout=10_000) as added:
            try_to_add(dialog, qtbot, address, agent.public_key)
        assert not dialog.isVisible() and dialog.problem.kind == ""
        qtbot.waitUntil(lambda: added.args[0].id in workbench.cluster.nodes)


def test_an_agent_that_does_not_trust_this_controller_is_told_apart(
    workbench: Workbench, window: QWidget, qtbot: QtBot
) -> None:
    dialog = AddNodeDialog(workbench, window)
    dialog.show_problem(NodeError("The agent does not trust this controller's key.", "node invite", kind="not_allowed"))
    assert "Not allowed" in dialog.problem.text and "command above" in dialog.problem.text


def test_asking_an_agent_that_never_answers_can_be_cancelled(
    workbench: Workbench, window: QWidget, qtbot: QtBot
) -> None:
    dialog = AddNodeDialog(workbench, window)
    dialog.open()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        dialog.address.setText(f"127.0.0.1:{silent.getsockname()[1]}")
        dialog.key.setText(KeyPair.make().public)
        press(qtbot, dialog.accept_button)
        assert dialog.is_busy and dialog.busy.isVisible() and not dialog.address.isEnabled()
        press(qtbot, dialog.cancel_button)
        qtbot.waitUntil(lambda: not dialog.is_busy)
    assert dialog.isVisible() and dialog.address.isEnabled()  # the form is there for another try
    press(qtbot, dialog.cancel_button)
    assert not dialog.isVisible()


def test_the_start_form_leaves_to_the_controller_what_is_left_automatic(
    quiet_workbench: Workbench, window: QWidget
) -> None:
    dialog = StartAgentsDialog(quiet_workbench, window)
    wanted = dialog.wanted
    assert (wanted.count, wanted.threads, wanted.memory, wanted.device) == (2, None, None, None)
    assert not wanted.keep  # agents end with the window unless told otherwise
    quiet_workbench.settings.set("agents/stop_with_window", False)
    dialog.count.setValue(1)
    dialog.threads.setValue(3)
    dialog.memory.setValue(1.5)
    dialog.device.setCurrentText("cpu")
    wanted = dialog.wanted
    assert (wanted.count, wanted.threads, wanted.memory, wanted.device) == (1, 3, 1_500_000_000, "cpu")
    assert wanted.keep and dialog.accept_button.text() == "Start 1 agent"


def test_an_agent_is_started_here_and_announced(workbench: Workbench, window: QWidget, qtbot: QtBot) -> None:
    dialog = StartAgentsDialog(workbench, window)
    dialog.open()
    dialog.count.setValue(1)
    dialog.threads.setValue(1)
    dialog.memory.setValue(0.5)
    jobs = workbench.jobs
    try:
        with qtbot.waitSignal(dialog.started, timeout=60_000) as started:
            press(qtbot, dialog.accept_button)
        (node,) = started.args[0]
        qtbot.waitUntil(lambda: node in workbench.cluster.nodes and workbench.cluster.nodes[node].is_here)
        (job,) = jobs.jobs
        assert (job.view.kind, job.view.status, job.view.origin.via) == ("local", JobStatus.DONE, "window")
    finally:
        ended = workbench.bridge.call(
            lambda controller, report: controller.stop_agents(keep_flagged=False), "ending the agent"
        )
        qtbot.waitSignal(ended.ended, timeout=20_000).wait()


def test_an_invitation_is_shown_for_each_system_and_void_when_closed(
    workbench: Workbench, window: QWidget, qtbot: QtBot
) -> None:
    dialog = InviteDialog(workbench, window, ["127.0.0.1"])
    dialog.address.setEditText(f"127.0.0.1:{free_port()}")
    dialog._on_address()
    dialog.open()
    port = int(dialog.address.currentText().rsplit(":", 1)[1])
    qtbot.waitUntil(lambda: str(port) in _address_in(dialog), timeout=10_000)
    assert "agent.sh --join" in dialog.commands["macOS"].text
    assert "powershell" in dialog.commands["Windows"].text
    copy = dialog.commands["Linux"].findChild(QPushButton)
    press(qtbot, copy)
    assert QGuiApplication.clipboard().text() == dialog.commands["Linux"].text
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        pass  # it listens
    dialog.reject()
    qtbot.waitUntil(lambda: not dialog.is_busy)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_an_address_that_cannot_be_listened_on_is_said_and_another_can_be_tried(
    workbench: Workbench, window: QWidget, qtbot: QtBot
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        dialog = InviteDialog(workbench, window, ["127.0.0.1"])
        dialog.address.setEditText(f"127.0.0.1:{taken.getsockname()[1]}")
        dialog._on_address()
        dialog.open()
        qtbot.waitUntil(lambda: dialog.problem.kind == "bad_input" and not dialog.is_busy, timeout=10_000)
        assert dialog.accept_button.isVisible() and dialog.commands["Linux"].text == ""
    press(qtbot, dialog.accept_button)
    qtbot.waitUntil(lambda: bool(dialog.commands["Linux"].text), timeout=10_000)
    dialog.reject()
    qtbot.waitUntil(lambda: not dialog.is_busy)


def test_an_invitations_command_fits_what_the_other_machine_has(
    quiet_workbench: Workbench, window: QWidget, qtbot: QtBot
) -> None:
    dialog = InviteDialog(quiet_workbench, window, ["127.0.0.1"])
    command = JoinCommand(Invitation.make("tcp://192.168.1.5:7599", KeyPair.make().public), 600.0)
    dialog._on_ready((command,))
    for index, start in enumerate(AGENT_STARTS):
        dialog.start.setCurrentIndex(index)
        assert dialog.commands["Linux"].text == dialog.commands["macOS"].text == f"{start.posix} {command.options}"
        assert dialog.commands["Windows"].text == f"{start.windows} {command.options}"


def test_a_machine_that_waits_is_shown_and_met_by_the_code_in_its_terminal(
    workbench: Workbench, window: QWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine("attic")
    with waits(machine, monkeypatch) as type_there:
        dialog = FindDialog(workbench, window)
        dialog.open()
        rows = dialog.machines
        qtbot.waitUntil(lambda: rows.count() > 0 and "attic" in rows.item(0).text(), timeout=20_000)
        assert machine.address in rows.item(0).text() and rows.item(0).isSelected(), "the only one is chosen"
        press(qtbot, dialog.accept_button)
        qtbot.waitUntil(lambda: dialog.meeting is not None and not dialog.is_busy, timeout=20_000)
        dialog.code.setText("000000" if machine.code != "000 000" else "000001")
        press(qtbot, dialog.accept_button)
        qtbot.waitUntil(lambda: "not the code" in dialog.problem.text and not dialog.is_busy, timeout=10_000)
        assert dialog.meeting is not None, "a code may be mistyped"
        dialog.code.setText(machine.code)
        press(qtbot, dialog.accept_button)
        qtbot.waitUntil(lambda: "[y/N]" in machine.shown[-1], timeout=10_000)
        qtbot.wait(600)  # an answer that comes sooner counts for nothing
        type_there("n")
        qtbot.waitUntil(lambda: "refused at the agent" in dialog.problem.text and not dialog.is_busy, timeout=10_000)
        assert dialog.meeting is None and rows.isVisible(), "back to who waits"
        press(qtbot, dialog.accept_button)
        qtbot.waitUntil(lambda: dialog.meeting is not None and not dialog.is_busy, timeout=20_000)
        dialog.reject()
        qtbot.waitUntil(lambda: "cancelled there" in machine.shown[-1], timeout=10_000)
    assert machine.found is None


@needs_sshd
def test_a_machine_is_added_over_ssh_once_its_key_is_confirmed(
    workbench: Workbench, window: QWidget, qtbot: QtBot, server: Server
) -> None:
    pytest.importorskip("asyncssh", reason="asyncssh is not installed")
    dialog = SshDialog(workbench, window)
    dialog.open()
    press(qtbot, dialog.accept_button)
    assert "which machine" in dialog.problem.text
    dialog.target.setText(f"{server.target.user}@127.0.0.1:{server.port}")
    dialog.python.setText(sys.executable)
    press(qtbot, dialog.accept_button)
    qtbot.waitUntil(lambda: bool(dialog.shown_key) and not dialog.is_busy, timeout=30_000)
    assert dialog.key.text() == fingerprint(server) and dialog.accept_button.text() == "It is this key"
    assert not (server.remote_home / FOLDER).exists(), "nothing is done there before"
    with qtbot.waitSignal(dialog.added, timeout=90_000) as added:
        press(qtbot, dialog.accept_button)
    node = added.args[0]
    with qtbot.waitSignal(
        workbench.bridge.call(lambda controller, report: controller.remove_node(str(node.id)), "removing").done,
        timeout=60_000,
    ):
        pass
    assert not (server.remote_home / FOLDER).exists()


def test_all_ways_to_machines_are_in_one_place_and_one_that_is_no_way_here_says_why(
    workbench: Workbench, window: QWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayLauncher, "problem", lambda self: "Ray needs the package ray.")
    actions = NodeActions(workbench, window)
    dialog = actions.open_machines()
    assert isinstance(dialog, MachinesDialog)
    by_ray = dialog.buttons["Bring by Ray"]
    qtbot.waitUntil(lambda: not by_ray.isEnabled(), timeout=20_000)
    said = [label.text() for label in dialog.findChildren(QLabel)]
    assert any(text.endswith("Ray needs the package ray.") for text in said)
    assert [text for text, button in dialog.buttons.items() if button.isEnabled()] == [
        "Start agents here", "Find machines", "Add over SSH", "Invite a machine", "Add node",
    ]  # fmt: skip
    press(qtbot, dialog.buttons["Start agents here"])
    qtbot.waitUntil(lambda: bool(window.findChildren(StartAgentsDialog)))
    window.findChildren(StartAgentsDialog)[0].reject()


def test_rays_dialog_says_what_went_wrong_and_keeps_the_form(
    workbench: Workbench, window: QWidget, qtbot: QtBot
) -> None:
    dialog = RayDialog(workbench, window)
    dialog.open()
    dialog.count.setValue(3)
    dialog.idle.setValue(10)
    dialog.address.setText("ray://rack:10001")
    dialog.no_token.setChecked(True)
    assert dialog.accept_button.text() == "Bring 3 agents"
    assert dialog.wanted == RayWish(3, "ray://rack:10001", idle_seconds=600.0, needs_token=False)
    press(qtbot, dialog.accept_button)
    qtbot.waitUntil(lambda: not dialog.is_busy, timeout=30_000)
    assert "Ray" in dialog.problem.text and dialog.count.isEnabled()


def test_this_machines_addresses_end_with_the_one_nobody_else_can_use() -> None:
    assert own_addresses()[-1].startswith("127.")


def test_a_dialog_is_never_too_small_for_its_text(quiet_workbench: Workbench, window: QWidget, qtbot: QtBot) -> None:
    dialog: NodeDialog = AddNodeDialog(quiet_workbench, window)
    dialog.open()
    before = dialog.height()
    dialog.show_problem(NodeError("A long story. " * 40, "And what to do about it. " * 20, kind="timeout"))
    qtbot.waitUntil(lambda: dialog.height() > before)
    layout = dialog.layout()
    assert layout is not None and dialog.height() >= layout.totalHeightForWidth(dialog.width())


def _address_in(dialog: InviteDialog) -> str:
    """Where the invitation that is shown leads to; empty without one."""
    words = dialog.commands["Linux"].text.split("--join ")
    return Invitation.decode(words[1]).address if len(words) == 2 else ""
