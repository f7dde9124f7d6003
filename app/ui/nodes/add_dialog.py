"""Adding an agent that already runs on another machine: its address and key, checked before anything is registered."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QFormLayout, QWidget

from app.errors import BadInput, NodeError, ShardboardError
from app.registry.records import NodeRecord
from app.ui import make
from app.ui.nodes.copy_field import CopyField
from app.ui.nodes.node_dialog import NodeDialog, wrapped
from app.ui.notices import Level
from app.ui.theme import SPACING, monospace
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller

_INTRODUCTION = (
    "Start the agent on the other machine, in a folder that holds Shardboard, with the command below and that "
    "machine's own address in it. It prints its address and its public key when it is ready."
)
_ADVICE = {
    "not_allowed": "Start the agent with the command above, which names this controller's key, or invite the machine.",
    "wrong_key": "Copy the key again from what the agent printed. If it was set up anew, it has a new one. "
    "Another kind of server on that port looks the same.",
}
"""Where the window knows a better way out than the command line's."""


@dataclass(frozen=True)
class _Typed:
    address: str
    key: str


class AddNodeDialog(NodeDialog):
    """Asks for address and key, and checks them before it closes. `added` tells the new node's record."""

    added = Signal(object)

    def __init__(self, workbench: Workbench, parent: QWidget) -> None:
        super().__init__(workbench, "Add a node", _INTRODUCTION, "Check and add", parent)
        self.setObjectName("nodes-add-dialog")
        self.command = CopyField("the command that starts the agent")
        self.address = make.field("192.168.1.20:7600", "Address of the agent, host and port")
        self.key = make.field("40 characters, as the agent prints them", "Public key of the agent")
        self.key.setFont(monospace())
        form = QFormLayout()
        form.setHorizontalSpacing(2 * SPACING)
        form.setVerticalSpacing(SPACING)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Address", self.address)
        form.addRow("Public key", self.key)
        self.body.addWidget(self.command)
        self.body.addLayout(form)
        self.body.addWidget(
            wrapped("The key is also in agent.pub in the agent's folder. It makes sure that nobody else answers.")
        )
        self.address.setFocus()
        workbench.bridge.call(_own_key, "reading this controller's key").done.connect(self._on_own_key)
        self.command.set_text(_start_command(""))

    @Slot(object)
    def _on_own_key(self, key: str) -> None:
        self.command.set_text(_start_command(key))

    @Slot()
    def begin(self) -> None:
        typed = _Typed(self.address.text().strip(), self.key.text().strip())
        if not typed.address or not typed.key:
            empty = self.address if not typed.address else self.key
            empty.setFocus()
            self.show_problem(BadInput(f"The {'address' if empty is self.address else 'public key'} is missing."))
            return
        self.follow(
            self.workbench.bridge.call(
                lambda controller, report: controller.add_node(typed.address, typed.key), "adding the node"
            ),
            f"Asking the agent at {typed.address}",
        )

    def set_form_enabled(self, enabled: bool) -> None:
        self.address.setEnabled(enabled)
        self.key.setEnabled(enabled)

    def show_problem(self, error: ShardboardError) -> None:
        if isinstance(error, NodeError) and error.kind in _ADVICE:
            error = NodeError(error.message, _ADVICE[error.kind], kind=error.kind, node=error.node)
        super().show_problem(error)

    def succeeded(self, result: object) -> None:
        assert isinstance(result, NodeRecord)
        self.workbench.notices.toast(f"{result.hostname} was added.", Level.SUCCESS)
        self.added.emit(result)
        self.accept()


async def _own_key(controller: Controller, report: object) -> str:
    return controller.identity.keys.public


def _start_command(key: str) -> str:
    """A key may begin with a dash and hold what a shell would read, hence the quotes around all of it."""
    trust = shlex.quote(f"--trust={key or '<key of this controller>'}")
    return f"worker_agent/launch/agent.sh --listen 192.168.1.20:7600 {trust}"
