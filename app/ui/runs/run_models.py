"""The three tables of runs: their columns and what stands in them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from PySide6.QtCore import QObject, Qt, Slot

from app.figures import clock, duration, short
from app.registry import DeploymentRecord, DeploymentStatus, JobRecord, RequestLine
from app.runs.telling import JOB_KINDS, state_word, time_taken
from app.ui import make
from app.ui.icons import icon
from app.ui.paging.paged_model import PagedModel
from app.ui.runs.state_look import look_of
from app.ui.workbench import Workbench

Role = Qt.ItemDataRole


class RunModel(PagedModel):
    """What the tables share: a state in the first column, and times that go on while something runs."""

    state_column = 0

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(workbench.bridge, parent)
        self._theme = workbench.theme
        self._ticking = make.timer(self, self._tick, 1000, once=False)
        self.page_read.connect(self._tick_while_needed)
        workbench.theme.changed.connect(self._on_theme_changed)

    time_column: int
    """The one that goes on."""

    def text(self, record: Any, column: int) -> str:
        raise NotImplementedError

    def is_under_way(self, record: Any) -> bool:
        raise NotImplementedError

    def hint(self, record: Any, column: int) -> str | None:
        return None

    def cell(self, record: Any, column: int, role: int) -> Any:
        if role == Role.DisplayRole or role == Role.AccessibleTextRole:
            return self.text(record, column)
        if role == Role.ToolTipRole:
            return self.hint(record, column)
        if role == Role.DecorationRole and column == self.state_column:
            look = look_of(record.status)
            return icon(look.icon, look.of(self._theme.colors))
        if role == Role.ForegroundRole:
            return self._foreground(record, column)
        return None

    def _foreground(self, record: Any, column: int) -> Any:
        colors = self._theme.colors
        if column == self.state_column:
            return look_of(record.status).of(colors)
        return colors.muted if column == self.time_column - 1 else None

    def set_live(self, live: bool) -> None:
        super().set_live(live)
        if live:
            self._tick_while_needed()
        else:
            self._ticking.stop()

    @Slot()
    def _tick_while_needed(self) -> None:
        if any(self.is_under_way(record) for _, record in self.at_hand()):
            if not self._ticking.isActive():
                self._ticking.start()
        else:
            self._ticking.stop()

    @Slot()
    def _tick(self) -> None:
        for row, record in self.at_hand():
            if self.is_under_way(record):
                index = self.index(row, self.time_column)
                self.dataChanged.emit(index, index, [Role.DisplayRole])

    @Slot()
    def _on_theme_changed(self) -> None:
        if self.total:
            self.dataChanged.emit(
                self.index(0, 0), self.index(self.total - 1, self.columnCount() - 1),
                [Role.ForegroundRole, Role.DecorationRole],
            )  # fmt: skip


class RequestColumn(IntEnum):
    STATE = 0
    MODEL = 1
    PROMPT = 2
    STARTED = 3
    TIME = 4
    PROMPT_TOKENS = 5
    TOKENS = 6
    RATE = 7
    FIRST_TOKEN = 8


class RequestModel(RunModel):
    """Requests, from their lines."""

    headers = ("State", "Model", "Prompt", "Asked", "Time", "Prompt tokens", "Tokens", "Tokens/s", "First token")
    numeric = frozenset(
        {
            RequestColumn.TIME, RequestColumn.PROMPT_TOKENS, RequestColumn.TOKENS, RequestColumn.RATE,
            RequestColumn.FIRST_TOKEN,
        }
    )  # fmt: skip
    time_column = RequestColumn.TIME

    def is_under_way(self, record: RequestLine) -> bool:
        return not record.status.is_over

    def text(self, record: RequestLine, column: int) -> str:
        match column:
            case RequestColumn.STATE:
                return state_word(record.status)
            case RequestColumn.MODEL:
                return record.model_name
            case RequestColumn.PROMPT:
                return short(record.prompt, 200)
            case RequestColumn.STARTED:
                return clock(record.created_at)
            case RequestColumn.TIME:
                return time_taken(record.created_at, record.completed_at)
            case RequestColumn.PROMPT_TOKENS:
                return f"{record.prompt_tokens:,}" if record.prompt_tokens else "–"
            case RequestColumn.TOKENS:
                return f"{record.completion_tokens:,}" if record.completion_tokens else "–"
            case RequestColumn.RATE:
                rate = record.timings.get("tokens_per_second")
                return "–" if rate is None else f"{rate:.1f}"
        return duration(record.timings.get("first_token"))

    def hint(self, record: RequestLine, column: int) -> str | None:
        if column == RequestColumn.STATE:
            return record.error
        if column == RequestColumn.PROMPT:
            return short(record.prompt, 400)
        return record.model_name if column == RequestColumn.MODEL else None


class JobColumn(IntEnum):
    STATE = 0
    KIND = 1
    TITLE = 2
    MODEL = 3
    STARTED = 4
    TIME = 5


class JobModel(RunModel):
    """Jobs."""

    headers = ("State", "Kind", "Job", "Model", "Asked", "Time")
    numeric = frozenset({JobColumn.TIME})
    time_column = JobColumn.TIME

    def is_under_way(self, record: JobRecord) -> bool:
        return not record.status.is_over

    def text(self, record: JobRecord, column: int) -> str:
        match column:
            case JobColumn.STATE:
                return state_word(record.status)
            case JobColumn.KIND:
                return JOB_KINDS.get(record.kind, record.kind)
            case JobColumn.TITLE:
                return short(record.title, 200)
            case JobColumn.MODEL:
                return record.model_name or "–"
            case JobColumn.STARTED:
                return clock(record.created_at)
        return time_taken(record.started_at, record.completed_at)

    def hint(self, record: JobRecord, column: int) -> str | None:
        return record.error if column == JobColumn.STATE else record.title if column == JobColumn.TITLE else None


class DeploymentColumn(IntEnum):
    STATE = 0
    MODEL = 1
    ID = 2
    DTYPE = 3
    CONTEXT = 4
    STARTED = 5
    CHANGED = 6


class DeploymentModel(RunModel):
    """Deployments."""

    headers = ("State", "Model", "Deployment", "Type", "Context", "Asked", "Changed")
    numeric = frozenset({DeploymentColumn.CONTEXT})
    time_column = DeploymentColumn.CHANGED

    def is_under_way(self, record: DeploymentRecord) -> bool:
        return record.status is DeploymentStatus.LOADING

    def text(self, record: DeploymentRecord, column: int) -> str:
        match column:
            case DeploymentColumn.STATE:
                return state_word(record.status)
            case DeploymentColumn.MODEL:
                return record.model_name
            case DeploymentColumn.ID:
                return record.id
            case DeploymentColumn.DTYPE:
                return record.dtype
            case DeploymentColumn.CONTEXT:
                return f"{record.context:,}"
            case DeploymentColumn.STARTED:
                return clock(record.created_at)
        return clock(record.updated_at)

    def hint(self, record: DeploymentRecord, column: int) -> str | None:
        return record.error if column == DeploymentColumn.STATE else None
