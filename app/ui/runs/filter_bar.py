"""The filters above the tables of runs: text, state, model, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QWidget

from app.registry import DeploymentStatus, JobStatus, RequestStatus
from app.ui.paging.choices import ChoiceBox, SearchRow

STATES = ("Any state", "Running", "Done", "Failed", "Cancelled")
_REQUESTS = {
    "Running": {RequestStatus.PENDING, RequestStatus.PROCESSING},
    "Done": {RequestStatus.COMPLETED},
    "Failed": {RequestStatus.FAILED},
    "Cancelled": {RequestStatus.CANCELLED},
}
_JOBS = {
    "Running": {JobStatus.QUEUED, JobStatus.RUNNING},
    "Done": {JobStatus.DONE},
    "Failed": {JobStatus.FAILED},
    "Cancelled": {JobStatus.CANCELLED},
}
_DEPLOYMENTS = {
    "Running": {DeploymentStatus.LOADING, DeploymentStatus.READY},
    "Done": {DeploymentStatus.UNLOADED},
    "Failed": {DeploymentStatus.FAILED},
    "Cancelled": set[DeploymentStatus](),
}
TIMES = (
    ("Any time", None),
    ("Last hour", timedelta(hours=1)),
    ("Last 24 hours", timedelta(days=1)),
    ("Last 7 days", timedelta(days=7)),
    ("Last 30 days", timedelta(days=30)),
)


@dataclass(frozen=True)
class RunFilter:
    """What the user wants to see."""

    text: str = ""
    state: str = STATES[0]
    model_name: str | None = None
    since: datetime | None = None

    @property
    def is_narrow(self) -> bool:
        return self != RunFilter()

    @property
    def requests(self) -> frozenset[RequestStatus] | None:
        return frozenset(_REQUESTS[self.state]) if self.state in _REQUESTS else None

    @property
    def jobs(self) -> frozenset[JobStatus] | None:
        return frozenset(_JOBS[self.state]) if self.state in _JOBS else None

    @property
    def deployments(self) -> frozenset[DeploymentStatus] | None:
        return frozenset(_DEPLOYMENTS[self.state]) if self.state in _DEPLOYMENTS else None


class FilterBar(SearchRow):
    """Emits `changed` with a RunFilter."""

    changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Search prompts, answers and errors", "Search runs", parent)
        self.states = self.add_box("State", STATES)
        self.models = self.add_box("Model", ["Any model"])
        self.models.setSizeAdjustPolicy(ChoiceBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.models.setMinimumContentsLength(16)
        self.times = self.add_box("Time", [name for name, _ in TIMES])
        self.edited.connect(self._on_changed)

    def value(self) -> RunFilter:
        span = TIMES[max(0, self.times.currentIndex())][1]
        return RunFilter(
            self.text,
            self.states.currentText(),
            self.models.currentText() if self.models.currentIndex() > 0 else None,
            datetime.now(UTC) - span if span is not None else None,
        )

    def set_models(self, names: Sequence[str]) -> None:
        """Models there are runs of; the chosen one stays chosen."""
        self.models.fill(["Any model", *names], self.models.currentText())

    @Slot()
    def _on_changed(self) -> None:
        self.changed.emit(self.value())
