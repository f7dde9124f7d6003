"""Closing the window: ask when work is under way, end it in good order, leave no process behind.

The window stays responsive meanwhile; each step is bounded in time by whoever does it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtWidgets import QDialog, QLabel, QWidget

from app.ui import make
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller
    from app.ui.bridge import Bridge

log = logging.getLogger(__name__)

JOBS_MILLISECONDS = 12_000
"""How long cancelled jobs may take here; for what is left then the controller waits when it closes."""


class Answer(StrEnum):
    STAY = "stay"
    WAIT = "wait"
    STOP = "stop"


class AskDialog(QDialog):
    """Work is under way: close all the same?"""

    def __init__(self, under_way: Sequence[str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.answer = Answer.STAY
        self.setWindowTitle("Work is under way")
        self.setObjectName("closing-ask")
        title = make.label("Work is under way", "title")
        listed = make.label("\n".join(f"•  {text}" for text in under_way), wraps=True, is_plain=True)
        note = make.label(
            "If you stop it: answers keep the text they have, weights that were sent stay on their nodes, downloads go "
            "on where they were, half-written shard folders are removed.",
            "muted",
            wraps=True,
        )
        layout = make.column(title, listed, note, SPACING, within=self, margins=make.DIALOG)
        buttons = make.row(make.STRETCH, spacing=None)
        for text, answer, name in (
            ("Stop it and close", Answer.STOP, "closing-stop"),
            ("Close when it is done", Answer.WAIT, "closing-wait"),
            ("Keep the window open", Answer.STAY, "closing-stay"),
        ):
            button = make.button(text, self._on_clicked, key=name)
            button.setProperty("answer", answer.value)
            if answer is Answer.STAY:
                button.setProperty("role", "primary")
                button.setDefault(True)
                button.setFocus()
            buttons.addWidget(button)
        layout.addLayout(buttons)
        self.setMinimumWidth(560)

    @Slot()
    def _on_clicked(self) -> None:
        sender = self.sender()
        self.answer = Answer(str(sender.property("answer"))) if sender is not None else Answer.STAY
        self.accept()


class ClosingDialog(QDialog):
    """What is being done before the window goes; cannot be closed itself."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Closing")
        self.setModal(True)
        self._text = QLabel("Closing")
        bar = make.progress("Closing", most=0)
        make.column(
            self._text, bar, within=self, margins=(3 * SPACING, 2 * SPACING, 3 * SPACING, 3 * SPACING), spacing=None
        )
        self.setMinimumWidth(320)

    def say(self, text: str) -> None:
        self._text.setText(text)

    def reject(self) -> None:
        """Escape does not interrupt what has begun."""


class Closing(QObject):
    """Ends everything in order: jobs, agents that belong to the window, the controller. Then `finished`."""

    finished = Signal()
    step = Signal(str)
    """What is being done now."""

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._workbench = workbench

    def begin(self) -> None:
        """Cancel all jobs; the rest follows when they have cleaned up behind themselves."""
        self.step.emit("Ending jobs")
        jobs = self._workbench.jobs
        self._patience = make.timer(self, self._jobs_ended)
        self._patience.start(JOBS_MILLISECONDS)
        jobs.job_ended.connect(self._on_job_ended)
        for job in jobs.busy():
            job.cancel()
        self._on_job_ended()

    @Slot()
    @Slot(object)
    def _on_job_ended(self, job: object = None) -> None:
        if self._patience.isActive() and not self._workbench.jobs.busy():
            self._patience.start(0)

    @Slot()
    def _jobs_ended(self) -> None:
        self._workbench.jobs.close()
        bridge = self._workbench.bridge
        if not bridge.is_open:
            self._close_bridge()
            return
        stop = bool(self._workbench.settings.get("agents/stop_with_window"))
        self.step.emit("Stopping this window's agents" if stop else "Ending what runs")
        call = bridge.call(lambda controller, report: _wind_up(controller, bridge, stop), "stopping the agents")
        call.done.connect(self._close_bridge)
        call.failed.connect(self._on_failed)
        call.cancelled.connect(self._close_bridge)

    @Slot(object)
    def _on_failed(self, error: object) -> None:
        log.warning("an agent of this window could not be ended: %s", error)
        self._close_bridge()

    @Slot()
    @Slot(object)
    def _close_bridge(self, stopped: object = None) -> None:
        self.step.emit("Closing the registry")
        self._workbench.bridge.closed.connect(self.finished)
        self._workbench.bridge.close()


async def _wind_up(controller: Controller, bridge: Bridge, stop_agents: bool) -> None:
    """Requests end before their agents do: what the user stopped must not be told as a node that was lost.

    Nobody is let in any more before that, or a request would begin that nobody waits for.
    """
    await bridge.shut_doors()
    await controller.inference.close()
    if stop_agents:
        await controller.stop_agents()
