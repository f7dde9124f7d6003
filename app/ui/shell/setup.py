"""The way from nothing to a first answer: runs the three steps, two at a time, and says where it stands."""

from __future__ import annotations

from enum import StrEnum

from PySide6.QtCore import QObject, Signal, Slot

from app.ui.shell.setup_step import SetupStep, StepState
from app.ui.shell.setup_steps import AgentsStep, ModelStep, SplitStep
from app.ui.workbench import Workbench


class SetupState(StrEnum):
    IDLE = "idle"
    RUNNING = "running"
    FAILED = "failed"
    READY = "ready"


class Setup(QObject):
    """The three steps with what each waits for. Steps may also be started one by one."""

    changed = Signal()

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.agents = AgentsStep(workbench, self)
        self.model = ModelStep(workbench, self)
        self.split = SplitStep(workbench, self.agents, self.model, self)
        self._goes_on = False
        self.was_run = False
        """Whether all of it was asked for, not a single step."""
        for step in self.steps:
            step.changed.connect(self.changed)
            step.ended.connect(self._on_news)
        cluster = workbench.cluster
        for signal in (cluster.loaded, cluster.nodes_reset, cluster.models_changed, cluster.deployments_changed):
            signal.connect(self._on_news)
        cluster.nodes_changed.connect(self._on_nodes_changed)
        self._was = tuple(step.state for step in self.steps)

    @property
    def steps(self) -> tuple[SetupStep, ...]:
        return (self.agents, self.model, self.split)

    @property
    def state(self) -> SetupState:
        states = {step.state for step in self.steps}
        if self.split.state is StepState.DONE:
            return SetupState.READY
        if StepState.RUNNING in states or self._goes_on:
            return SetupState.RUNNING
        return SetupState.FAILED if StepState.FAILED in states else SetupState.IDLE

    def run(self) -> None:
        """Do whatever is not done yet; what failed is tried again."""
        self._goes_on = self.was_run = True
        for step in self.steps:
            if step.state is StepState.FAILED:
                step.start()
        self._advance()

    def cancel(self) -> None:
        """End what is under way and begin nothing more. What is done stays."""
        self._goes_on = self.was_run = False
        for step in self.steps:
            step.cancel()
        self.changed.emit()

    @Slot()
    def _on_news(self) -> None:
        self._advance()

    @Slot(object)
    def _on_nodes_changed(self, nodes: frozenset[int]) -> None:
        # Once a second for each node; only a change of a step's state is news.
        if self._was != tuple(step.state for step in self.steps):
            self._advance()

    def _advance(self) -> None:
        if self._goes_on:
            failed = [step for step in self.steps if step.state is StepState.FAILED]
            running = [step for step in self.steps if step.state is StepState.RUNNING]
            if self.split.state is StepState.DONE or (failed and not running):
                self._goes_on = False
            else:
                for step in self.steps:
                    if step.state is StepState.WAITING:
                        step.start()
        self._was = tuple(step.state for step in self.steps)
        self.changed.emit()
