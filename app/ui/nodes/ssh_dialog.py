"""Putting an agent on another machine over SSH; the host's key is shown and confirmed before anything is done there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QFormLayout, QWidget

from app.errors import BadInput, ShardboardError
from app.launchers.launcher import SshWish
from app.launchers.ssh_hosts import UnknownHost
from app.registry.records import NodeRecord
from app.ui import make
from app.ui.bridge import Report, window_origin
from app.ui.nodes.copy_field import CopyField
from app.ui.nodes.node_dialog import NodeDialog, wrapped
from app.ui.notices import Level
from app.ui.theme import SPACING, monospace
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller

_INTRODUCTION = (
    "Copies the agent to a machine that you reach over SSH, sets it up there, starts it, and adds it as a node. "
    "Removing the node takes all of it away again. Your own SSH keys are used; no password is asked for or kept."
)
_COMPARE = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
_DIFFER = (
    "Compare it with what this command prints on that machine. If they differ, cancel: somebody else may be answering."
)
_ADD, _CONFIRM = "Connect", "It is this key"


class SshDialog(NodeDialog):
    """Asks for a machine, then whether the key that it shows is its own. `added` tells the new node's record."""

    added = Signal(object)

    def __init__(self, workbench: Workbench, parent: QWidget) -> None:
        super().__init__(workbench, "Add a machine over SSH", _INTRODUCTION, _ADD, parent)
        self.setObjectName("nodes-ssh-dialog")
        self.shown_key = ""
        """The key that the host shows and that is to be confirmed; empty before."""
        self.target = make.field("me@rack-1, or me@rack-1:2222", "User and host, as for ssh")
        self.python = make.field("its own environment is made there", "Python on that machine")
        self.listen = make.field("the address that SSH leads to", "Where the agent listens")
        form = QFormLayout()
        form.setHorizontalSpacing(2 * SPACING)
        form.setVerticalSpacing(SPACING)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Machine", self.target)
        form.addRow("Python there", self.python)
        form.addRow("Agent listens on", self.listen)
        self.key = wrapped("", "heading")
        self.key.setFont(monospace())
        self.command = CopyField("the command that shows the host's key")
        self.command.set_text(_COMPARE)
        asking, comparing = QWidget(), QWidget()
        asking.setLayout(form)
        form.setContentsMargins(0, 0, 0, 0)
        make.column(
            wrapped("This machine is seen for the first time. It shows this key:"), self.key,
            wrapped(_DIFFER), self.command, within=comparing, spacing=SPACING,
        )  # fmt: skip
        self._asking, self._comparing = asking, comparing
        self.body.addWidget(asking)
        self.body.addWidget(comparing)
        comparing.hide()
        self.target.setFocus()

    @Slot()
    def begin(self) -> None:
        target = self.target.text().strip()
        if not target:
            self.target.setFocus()
            self.show_problem(BadInput("It is not said which machine.", "Write it as for ssh: me@rack-1"))
            return
        python, listen = self.python.text().strip() or None, self.listen.text().strip() or None
        key = self.shown_key or None

        async def work(controller: Controller, report: Report) -> NodeRecord:
            from app.launching import launch

            wish = SshWish(target, key, python, listen)
            return (await launch(controller, wish, lambda progress: report(progress.phase), window_origin()))[0]

        call = self.workbench.bridge.call(work, f"adding {target} over SSH")
        call.progressed.connect(self._on_phase)
        self.follow(call, f"Connecting to {target}")

    @Slot(object)
    def _on_phase(self, phases: tuple[str, ...]) -> None:
        self._doing = phases[-1].capitalize()
        self._tick()

    def set_form_enabled(self, enabled: bool) -> None:
        self._asking.setEnabled(enabled)

    def show_problem(self, error: ShardboardError) -> None:
        if isinstance(error, UnknownHost):
            self._show_key(error.shown)
            return
        self._show_key("")
        super().show_problem(error)

    def _show_key(self, key: str) -> None:
        self.shown_key = key
        self.key.setText(key)
        self._asking.setVisible(not key)
        self._comparing.setVisible(bool(key))
        self.accept_button.setText(_CONFIRM if key else _ADD)

    def succeeded(self, result: object) -> None:
        assert isinstance(result, NodeRecord)
        self.workbench.notices.toast(f"{result.hostname} was added.", Level.SUCCESS)
        self.added.emit(result)
        self.accept()
