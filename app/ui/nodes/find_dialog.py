"""Finding machines: who waits on this network, and taking one in by the code that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QListWidget, QListWidgetItem, QWidget

from app.cluster.finding import WaitingAgent
from app.cluster.invitations import AGENT_STARTS
from app.cluster.meetings import Meeting
from app.errors import BadInput, ShardboardError
from app.registry.records import NodeRecord
from app.ui import make
from app.ui.bridge import Report
from app.ui.nodes.copy_field import CopyField
from app.ui.nodes.node_dialog import NodeDialog, wrapped
from app.ui.notices import Level
from app.ui.theme import SPACING, monospace
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller

_INTRODUCTION = (
    "Start the agent on the other machine with --wait, for instance as below: it appears here when it is in the same "
    "network. Being seen is no reason for trust: choose a machine, and type the code that it shows in its terminal."
)
_LOOK_SECONDS = 600.0
_NOBODY = "No machine waits here yet …"


class FindDialog(NodeDialog):
    """Lists who waits as long as it is open, meets one, asks for its code. `joined` tells the new node's record."""

    joined = Signal(object)

    def __init__(self, workbench: Workbench, parent: QWidget) -> None:
        super().__init__(workbench, "Find machines", _INTRODUCTION, "Meet", parent)
        self.setObjectName("nodes-find-dialog")
        self.meeting: Meeting | None = None
        self._closing = False
        self.command = CopyField("the command that has an agent wait")
        self.command.set_text(f"{AGENT_STARTS[0].posix} --wait")
        self.machines = make.dressed(QListWidget(), name="Machines that wait to be found")
        self.machines.setMinimumHeight(self.fontMetrics().height() * 8)
        self.machines.setSpacing(SPACING)
        self._nobody = wrapped(_NOBODY)
        self._asked = wrapped("", "heading")
        self.code = make.field("123 456", "The code that the machine shows")
        self.code.setFont(monospace(self.font().pointSize() + 6))
        self.code.setAlignment(Qt.AlignmentFlag.AlignCenter)
        looking, meeting = QWidget(), QWidget()
        make.column(self.command, self.machines, self._nobody, within=looking, spacing=SPACING)
        make.column(
            self._asked, self.code,
            wrapped("The same digits at both ends mean that nobody stands between. If they differ, cancel."),
            make.STRETCH, within=meeting, spacing=2 * SPACING,
        )  # fmt: skip
        self._looking, self._meeting_page = looking, meeting
        self.body.addWidget(looking)
        self.body.addWidget(meeting)
        meeting.hide()
        self.machines.itemSelectionChanged.connect(self._on_selection)
        self.machines.itemActivated.connect(self.begin)
        self._on_selection()
        self._look()

    # --- looking ---

    @Slot()
    def _look(self) -> None:
        self._search = self.workbench.bridge.call(_find, "looking for machines")
        self._search.progressed.connect(self._on_found)
        self._search.failed.connect(self.show_problem)

    @Slot(object)
    def _on_found(self, reports: tuple[list[WaitingAgent], ...]) -> None:
        """All that wait now; who was chosen stays so."""
        found = reports[-1]
        chosen = self._chosen()
        self.machines.clear()
        for agent in found:
            text = f"{agent.name}   {agent.address}   key {agent.fingerprint}"
            item = QListWidgetItem(f"{text}\n{agent.problem}" if agent.problem else text)
            item.setData(Qt.ItemDataRole.UserRole, agent)
            if agent.problem:
                item.setFlags(Qt.ItemFlag.NoItemFlags)
            self.machines.addItem(item)
            if agent == chosen or (chosen is None and len(found) == 1 and not agent.problem):
                self.machines.setCurrentItem(item)
        self._nobody.setText("" if found else _NOBODY)
        self._on_selection()

    def _chosen(self) -> WaitingAgent | None:
        item = self.machines.currentItem()
        agent = item.data(Qt.ItemDataRole.UserRole) if item is not None and item.isSelected() else None
        return agent if isinstance(agent, WaitingAgent) else None

    @Slot()
    def _on_selection(self) -> None:
        self.accept_button.setEnabled(not self.is_busy and (self.meeting is not None or self._chosen() is not None))

    # --- meeting ---

    @Slot()
    def begin(self) -> None:
        if self.meeting is not None:
            self._give_code(self.meeting)
            return
        agent = self._chosen()
        if agent is None:
            self.show_problem(BadInput("No machine is chosen."))
            return
        self.follow(
            self.workbench.bridge.call(
                lambda controller, report: _begin(controller, agent), f"meeting {agent.name}"
            ),
            f"Meeting {agent.name} at {agent.address}",
        )  # fmt: skip

    def _give_code(self, meeting: Meeting) -> None:
        code = self.code.text().strip()
        if not code:
            self.show_problem(BadInput(f"The code that {meeting.name} shows is missing."))
            self.code.setFocus()
            return
        call = self.workbench.bridge.call(
            lambda controller, report: _confirm(controller, meeting, code, report), f"taking {meeting.name} in"
        )
        call.progressed.connect(self._on_right)
        self.follow(call, "Comparing the code")

    @Slot(object)
    def _on_right(self, told: tuple[str, ...]) -> None:
        self._doing = told[-1].rstrip(".")
        self._tick()

    def succeeded(self, result: object) -> None:
        if isinstance(result, Meeting):
            self._show_meeting(result)
            return
        assert isinstance(result, NodeRecord)
        self.meeting = None
        self.workbench.notices.toast(f"{result.hostname} belongs to this controller now.", Level.SUCCESS)
        self.joined.emit(result)
        self.accept()

    def _show_meeting(self, meeting: Meeting | None) -> None:
        self.meeting = meeting
        self._looking.setVisible(meeting is None)
        self._meeting_page.setVisible(meeting is not None)
        self.accept_button.setText("Meet" if meeting is None else "Confirm")
        if meeting is not None:
            self._asked.setText(
                f"{meeting.name} ({meeting.address}, key {meeting.fingerprint}) shows a code in its terminal. Type it:"
            )
            self.code.clear()
            self.code.setFocus()
        self._on_selection()

    def show_problem(self, error: ShardboardError) -> None:
        """A code that was mistyped can be typed again; after anything else the meeting is over."""
        if self.meeting is not None and not isinstance(error, BadInput):
            self._show_meeting(None)
        super().show_problem(error)

    def set_form_enabled(self, enabled: bool) -> None:
        self.machines.setEnabled(enabled)
        self.code.setEnabled(enabled)

    @Slot()
    def _on_ended(self) -> None:
        super()._on_ended()
        if self._closing:
            super().reject()
        self._on_selection()

    def done(self, result: int) -> None:
        """However it closes: nothing is looked for any more, and no meeting stays open."""
        self._search.cancel()
        if self.meeting is not None:
            id, self.meeting = self.meeting.id, None
            self.workbench.bridge.call(lambda controller, report: _end(controller, id), "ending a meeting")
        super().done(result)

    def reject(self) -> None:
        self._closing = True
        if self.is_busy:
            self.cancel_call()
            return
        super().reject()


async def _find(controller: Controller, report: Report) -> object:
    from app.finding import find_machines

    return await find_machines(controller, _LOOK_SECONDS, report)


async def _begin(controller: Controller, agent: WaitingAgent) -> Meeting:
    from app.finding import begin_meeting

    return await begin_meeting(controller, agent.address, agent.public_key)


async def _confirm(controller: Controller, meeting: Meeting, code: str, report: Report) -> NodeRecord:
    from app.finding import confirm_meeting

    return await confirm_meeting(controller, meeting.id, code, report)


async def _end(controller: Controller, meeting: str) -> None:
    from app.finding import end_meeting

    await end_meeting(controller, meeting)
