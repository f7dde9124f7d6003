"""One step on the way to a first answer: what every step of the first page has in common."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

from PySide6.QtCore import QObject, Signal, Slot

from app.errors import ShardboardError
from app.ui import make
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
    """Keeps the state and hears how the work ends. Subclasses say whether it is done already, and do it."""

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
        self._is_running = False
        self._began = 0.0
        self._arrival = make.timer(self, self._on_missing, ARRIVAL_MILLISECONDS)

    @property
    def state(self) -> StepState:
        if self._is_running:
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

    # --- what subclasses say ---

    def is_done(self) -> bool:
        """Whether what it brings about is there, by whatever way."""
        raise NotImplementedError

    def result(self) -> str:
        """What is there, once it is done."""
        raise NotImplementedError

    def why_not(self) -> str:
        """Why it cannot be started now; empty when it can."""
        return ""

    def begin(self) -> None:
        """Start the work, which ends with `finish`."""
        raise NotImplementedError

    def end(self) -> None:
        """Ask the work to end; `finish` comes then too."""
        raise NotImplementedError

    # --- what the page asks ---

    def start(self) -> None:
        """Begin, unless it is done, under way or not possible yet."""
        if self.state in (StepState.RUNNING, StepState.DONE) or self.why_not():
            return
        self.error, self.progress = None, StepProgress()
        self._began = time.monotonic()
        self._is_running = True
        self.begin()
        self.changed.emit()

    def cancel(self) -> None:
        """Ask it to end."""
        self._arrival.stop()
        if self._is_running:
            self.progress = StepProgress("Cancelling")
            self.end()
            self.changed.emit()

    # --- what the work tells ---

    def show_progress(self, progress: StepProgress) -> None:
        self.progress = progress
        self.changed.emit()

    def finish(self, *, succeeded: bool, error: ShardboardError | None = None) -> None:
        """The work is over; without an error it was cancelled, or has succeeded."""
        self._is_running = False
        self.error = error
        if succeeded and not self.is_done():
            self._arrival.start()
        self.changed.emit()
        self.ended.emit()

    @Slot()
    def _on_missing(self) -> None:
        if not self.is_done():
            self.error = ShardboardError("It was done, but nothing of it has shown up.", "Try again.")
        self.changed.emit()
        self.ended.emit()


class CallStep(SetupStep):
    """A step whose work is one call on the controller."""

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(workbench, parent)
        self._call: Call | None = None
        self._succeeded = False
        self._failure: ShardboardError | None = None

    def call(self) -> Call:
        """Make the call."""
        raise NotImplementedError

    def read(self, progress: object) -> StepProgress:
        """One report of the work, for people."""
        raise NotImplementedError

    def begin(self) -> None:
        self._succeeded, self._failure = False, None
        self._call = self.call()
        self._call.progressed.connect(self._on_progress)
        self._call.done.connect(self._on_done)
        self._call.failed.connect(self._on_failed)
        self._call.ended.connect(self._on_ended)

    def end(self) -> None:
        if self._call is not None:
            self._call.cancel()

    @Slot(object)
    def _on_progress(self, reports: tuple[object, ...]) -> None:
        self.show_progress(self.read(reports[-1]))

    @Slot(object)
    def _on_done(self, result: object) -> None:
        self._succeeded = True

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self._failure = error

    @Slot()
    def _on_ended(self) -> None:
        self._call = None
        self.finish(succeeded=self._succeeded, error=self._failure)
