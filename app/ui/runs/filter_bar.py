"""The filters above the tables of runs: text, state, model, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from PySide6.QtCore import QTimer, Signal, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLineEdit, QWidget

from app.registry import DeploymentStatus, JobStatus, RequestStatus
from app.ui.icons import icon
from app.ui.theme import SPACING

TYPING_MILLISECONDS = 250
"""After the last key, so that not every letter is searched for."""

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


class FilterBar(QWidget):
    """Emits `changed` with a RunFilter."""

    changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.search = QLineEdit(self)
        self.search.setPlaceholderText("Search prompts, answers and errors")
        self.search.setAccessibleName("Search runs")
        self.search.setClearButtonEnabled(True)
        self.search.addAction(QAction(icon("search"), "", self.search), QLineEdit.ActionPosition.LeadingPosition)
        self.states = QComboBox(self)
        self.states.addItems(list(STATES))
        self.states.setAccessibleName("State")
        self.models = QComboBox(self)
        self.models.addItem("Any model")
        self.models.setAccessibleName("Model")
        self.models.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.models.setMinimumContentsLength(16)
        self.times = QComboBox(self)
        self.times.addItems([name for name, _ in TIMES])
        self.times.setAccessibleName("Time")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addWidget(self.search, 1)
        for box in (self.states, self.models, self.times):
            layout.addWidget(box)
            box.currentIndexChanged.connect(self._on_changed)
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(TYPING_MILLISECONDS)
        self._typing.timeout.connect(self._on_changed)
        self.search.textChanged.connect(self._on_typed)
        self.search.returnPressed.connect(self._on_changed)

    def value(self) -> RunFilter:
        span = TIMES[max(0, self.times.currentIndex())][1]
        return RunFilter(
            self.search.text().strip(),
            self.states.currentText(),
            self.models.currentText() if self.models.currentIndex() > 0 else None,
            datetime.now(UTC) - span if span is not None else None,
        )

    def set_models(self, names: Sequence[str]) -> None:
        """Models there are runs of; the chosen one stays chosen."""
        chosen = self.models.currentText()
        wanted = ["Any model", *names]
        if wanted == [self.models.itemText(index) for index in range(self.models.count())]:
            return
        self.models.blockSignals(True)
        self.models.clear()
        self.models.addItems(wanted)
        self.models.setCurrentIndex(max(0, wanted.index(chosen) if chosen in wanted else 0))
        self.models.blockSignals(False)

    @Slot()
    def reset(self) -> None:
        """Everything is shown."""
        for box in (self.states, self.models, self.times):
            box.blockSignals(True)
            box.setCurrentIndex(0)
            box.blockSignals(False)
        self.search.clear()
        self._on_changed()

    @Slot()
    def _on_typed(self) -> None:
        self._typing.start()

    @Slot()
    def _on_changed(self) -> None:
        self._typing.stop()
        self.changed.emit(self.value())
