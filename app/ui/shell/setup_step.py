"""One step on the way to a first answer: what every step of the first page has in common."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from app.errors import ShardboardError
from app.ui.bridge import Call
from app.ui.workbench import Workbench

ARRIVAL_MILLISECONDS = 20_000
"""How long the cluster's mirror may take to show what a step has brought about."""


class StepState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class StepProgress:
    """How far a running step is."""

    text: str = ""
    done: int = 0
    total: int = 0
    """0 when nobody can tell."""
    seconds_left: float | None = None


class SetupStep(QObject):
    """Subclasses say whether it is done already and begin it; this keeps the state and hears how it ends."""

    changed = Signal()
    ended = Signal()
    """It was running and is not any more; `state` says how it went."""

    title = ""
    what = ""
    """In words for an error: "Starting the agents"."""

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.workbench = workbench
        self.progress = StepProgress()
        self.error: ShardboardError | None = None
        self._call: Call | None = None
        self._began = 0.0
        self._arrival = QTimer(self)
        self._arrival.setSingleShot(True)
        self._arrival.setInterval(ARRIVAL_MILLISECONDS)
        self._arrival.timeout.connect(self._on_missing)

    @property
    def state(self) -> StepState:
        if self._call is not None:
            return StepState.RUNNING
        if self.is_done():
            return StepState.DONE
        if self._arrival.isActive():  # the work is done, and the mirror is about to hear of it
            return StepState.RUNNING
        return StepState.FAILED if self.error is not None else StepState.WAITING

    @property
    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    def is_done(self) -> bool:
        """Whether what it brings about is there, by whatever way."""
        raise NotImplementedError

    def result(self) -> str:
        """What is there, once it is done."""
        raise NotImplementedError

    def why_not(self) -> str:
        """Why it cannot be started now; empty when it can."""
        return ""

    def begin(self) -> Call:
        raise NotImplementedError

    def read(self, progress: object) -> StepProgress:
        """One report of the work, for people."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin, unless it is done, under way or not possible yet."""
        if self.state in (StepState.RUNNING, StepState.DONE) or self.why_not():
            return
        self.error, self.progress = None, StepProgress()
        self._arrival.stop()
        self._began = time.monotonic()
        self._call = self.begin()
        self._call.progressed.connect(self._on_progress)
        self._call.done.connect(self._on_done)
        self._call.failed.connect(self._on_failed)
        self._call.ended.connect(self._on_ended)
        self.changed.emit()

    def cancel(self) -> None:
        """Ask it to end."""
        self._arrival.stop()
        if self._call is not None:
            self.progress = StepProgress("Cancelling")
            self._call.cancel()
            self.changed.emit()

    @Slot(object)
    def _on_progress(self, reports: tuple[object, ...]) -> None:
        self.progress = self.read(reports[-1])
        self.changed.emit()

    @Slot(object)
    def _on_done(self, result: object) -> None:
        self._arrival.start()

    @Slot()
    def _on_missing(self) -> None:
        if not self.is_done():
            self.error = ShardboardError("It was done, but nothing of it has shown up.", "Try again.")
        self.changed.emit()
        self.ended.emit()

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self.error = error

    @Slot()
    def _on_ended(self) -> None:
        self._call = None
        self.changed.emit()
        self.ended.emit()
