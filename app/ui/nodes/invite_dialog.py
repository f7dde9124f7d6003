"""Inviting another machine: the command to run there, and a wait until its agent has joined."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from PySide6.QtCore import QElapsedTimer, Signal, Slot
from PySide6.QtWidgets import QComboBox, QFormLayout, QTabWidget, QWidget

from app.cluster.invitations import AGENT_STARTS, INVITATION_PORT
from app.errors import ShardboardError
from app.registry.records import NodeRecord
from app.ui import make
from app.ui.bridge import Report, window_origin
from app.ui.nodes.copy_field import CopyField
from app.ui.nodes.node_dialog import NodeDialog, wrapped
from app.ui.notices import Level
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.cluster.invitations import JoinCommand
    from app.controller import Controller


_INTRODUCTION = (
    "Run the command on the other machine. It starts an agent that joins by itself; with --install-service added, the "
    "agent comes back whenever you log in there. The invitation works once."
)
_SYSTEMS = ("Linux", "macOS", "Windows")


class InviteDialog(NodeDialog):
    """Shows an invitation and listens for its use as long as it is open. `joined` tells the new node's record."""

    joined = Signal(object)

    def __init__(self, workbench: Workbench, parent: QWidget, addresses: list[str] | None = None) -> None:
        super().__init__(workbench, "Invite another machine", _INTRODUCTION, "Make invitation", parent)
        self.setObjectName("nodes-invite-dialog")
        self._valid_seconds = 0.0
        self._valid_since = QElapsedTimer()
        self._again = False
        self.address = QComboBox()
        self.address.setEditable(True)
        self.address.addItems([f"{host}:{INVITATION_PORT}" for host in addresses or own_addresses()])
        self.address.setAccessibleName("Address of this machine on which the agent is awaited")
        self.address.setToolTip("The other machine must be able to reach this address")
        self.start = QComboBox()
        self.start.addItems([start.given for start in AGENT_STARTS])
        self.start.setAccessibleName("What the other machine has of Shardboard")
        self._options = ""
        form = QFormLayout()
        form.setHorizontalSpacing(2 * SPACING)
        form.setVerticalSpacing(SPACING)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("This machine's address", self.address)
        form.addRow("On the other machine", self.start)
        self.tabs = QTabWidget()
        self.tabs.setAccessibleName("The command, by system")
        self.commands: dict[str, CopyField] = {}
        for system in _SYSTEMS:
            page = QWidget()
            self.commands[system] = CopyField(f"the command for {system}")
            make.column(
                self.commands[system], wrapped(_HINTS[system]), make.STRETCH, within=page,
                margins=(0, SPACING + SPACING // 2, 0, 0), spacing=None,
            )  # fmt: skip
            self.tabs.addTab(page, system)
        self.body.addLayout(form)
        self.body.addWidget(self.tabs)
        self.address.activated.connect(self._on_address)
        self.start.currentIndexChanged.connect(self._show_commands)
        self.begin()

    @Slot()
    def _on_address(self) -> None:
        """Another address was chosen: the invitation for the one before is void."""
        if self.is_busy:
            self._again = True
            self.cancel_call()
        else:
            self.begin()

    @Slot()
    def begin(self) -> None:
        place = self.address.currentText().strip()
        self._take_options("")
        call = self.workbench.bridge.call(
            lambda controller, report: _invite(controller, report, place), "inviting a machine"
        )
        call.progressed.connect(self._on_ready)
        self.follow(call, "Making the invitation")

    @Slot(object)
    def _on_ready(self, commands: tuple[JoinCommand, ...]) -> None:
        command = commands[-1]
        self._take_options(command.options)
        self._valid_seconds = command.valid_seconds
        self._valid_since.start()
        self._tick()

    def _take_options(self, options: str) -> None:
        self._options = options
        self._show_commands()
        if not options:
            self._valid_seconds = 0.0

    @Slot()
    def _show_commands(self) -> None:
        start = AGENT_STARTS[self.start.currentIndex()]
        for system, field in self.commands.items():
            begins = start.windows if system == "Windows" else start.posix
            field.set_text(f"{begins} {self._options}" if self._options else "")

    @Slot()
    def _tick(self) -> None:
        if self._valid_seconds:
            left = max(0, round(self._valid_seconds - self._valid_since.elapsed() / 1000))
            self.show_doing(
                f"Waiting for the agent to join; the command works for another {left // 60}:{left % 60:02d} min"
            )
        else:
            super()._tick()

    def set_form_enabled(self, enabled: bool) -> None:
        """Another address can be chosen at any time; a new invitation only when there is none."""
        self.accept_button.setVisible(enabled)

    def show_problem(self, error: ShardboardError) -> None:
        self._take_options("")
        super().show_problem(error)

    @Slot()
    def _on_ended(self) -> None:
        super()._on_ended()
        if self._again:
            self._again = False
            self.begin()
        elif self._closing:
            super().reject()

    _closing = False

    def reject(self) -> None:
        """Closing ends the wait; the dialog goes when nothing listens any more."""
        self._closing = True
        if self.is_busy:
            self.cancel_call()
            self.hide()
            return
        super().reject()

    def succeeded(self, result: object) -> None:
        assert isinstance(result, NodeRecord)
        self.workbench.notices.toast(f"{result.hostname} has joined from {result.ip_address}.", Level.SUCCESS)
        self.joined.emit(result)
        self.accept()


_HINTS = {
    "Linux": "The first start makes an environment of its own there, which takes a few minutes.",
    "macOS": "Python 3.11 or newer must be installed there. The first start takes a few minutes.",
    "Windows": "Run it in PowerShell. Windows may ask whether Python may use the network: allow it.",
}


async def _invite(controller: Controller, report: Report, place: str) -> NodeRecord:
    return await controller.invite(place, report, origin=window_origin())


def own_addresses() -> list[str]:
    """The addresses of this machine's networks, private ones first, loopback last; IPv4, since people type them."""
    import psutil

    found = {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family is socket.AF_INET
    }
    return sorted(found, key=_usefulness)


def _usefulness(text: str) -> tuple[bool, bool, bool, str]:
    """Sorts what is most likely to be reached by another machine of the same home first."""
    address = ipaddress.ip_address(text)
    return address.is_loopback, address.is_link_local, not address.is_private, text
