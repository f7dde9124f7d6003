"""The three tables of runs: their columns and what stands in them."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject, Slot

from app.figures import clock, duration, short
from app.registry import DeploymentRecord, DeploymentStatus, JobRecord, RequestLine
from app.runs.telling import JOB_KINDS, state_word, time_taken
from app.ui import make
from app.ui.looks import run_look
from app.ui.paging.paged_model import PagedModel
from app.ui.tables import Column, Role
from app.ui.workbench import Workbench


class RunModel(PagedModel):
    """What the tables share: a state in the first column, and times that go on while something runs."""

    state_column = 0
    time_column: int
    """The one that goes on."""

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(workbench.bridge, parent)
        self._theme = workbench.theme
        self._ticking = make.timer(self, self._tick, 1000, once=False)
        self.page_read.connect(self._tick_while_needed)
        workbench.theme.changed.connect(self._on_theme_changed)

    def is_under_way(self, record: Any) -> bool:
        raise NotImplementedError

    def cell(self, record: Any, column: int, role: int) -> Any:
        if role == Role.DecorationRole and column == self.state_column:
            return run_look(record.status).drawn(self._theme.colors)
        if role == Role.ForegroundRole:
            return self._foreground(record, column)
        return super().cell(record, column, role)

    def _foreground(self, record: Any, column: int) -> Any:
        colors = self._theme.colors
        if column == self.state_column:
            return run_look(record.status).of(colors)
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


class RequestModel(RunModel):
    """Requests, from their lines."""

    columns = (
        Column("State", lambda run: state_word(run.status), "Cancelled____", hint=lambda run: run.error),
        Column("Model", lambda run: run.model_name, "SmolLM2-135M-Instruct", hint=lambda run: run.model_name),
        Column("Prompt", lambda run: short(run.prompt, 200), hint=lambda run: short(run.prompt, 400)),
        Column("Asked", lambda run: clock(run.created_at), "2026-12-30 23:59"),
        Column("Time", lambda run: time_taken(run.created_at, run.completed_at), "00 min 00 s", True),
        Column("Prompt tokens", lambda run: _count(run.prompt_tokens), "Prompt tokens", True),
        Column("Tokens", lambda run: _count(run.completion_tokens), "Tokens", True),
        Column("Tokens/s", lambda run: _rate(run.timings.get("tokens_per_second")), "Tokens/s", True),
        Column("First token", lambda run: duration(run.timings.get("first_token")), "First token", True),
    )
    time_column = 4

    def is_under_way(self, record: RequestLine) -> bool:
        return not record.status.is_over


def _count(tokens: int | None) -> str:
    return f"{tokens:,}" if tokens else "–"


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1f}"


class JobModel(RunModel):
    """Jobs."""

    columns = (
        Column("State", lambda job: state_word(job.status), "Cancelled____", hint=lambda job: job.error),
        Column("Kind", lambda job: JOB_KINDS.get(job.kind, job.kind), "Cut into shards__"),
        Column("Job", lambda job: short(job.title, 200), hint=lambda job: job.title),
        Column("Model", lambda job: job.model_name or "–", "SmolLM2-135M-Instruct"),
        Column("Asked", lambda job: clock(job.created_at), "2026-12-30 23:59:59"),
        Column("Time", lambda job: time_taken(job.started_at, job.completed_at), "00 min 00 s", True),
    )
    time_column = 5

    def is_under_way(self, record: JobRecord) -> bool:
        return not record.status.is_over


class DeploymentModel(RunModel):
    """Deployments."""

    columns = (
        Column("State", lambda run: state_word(run.status), "Cancelled____", hint=lambda run: run.error),
        Column("Model", lambda run: run.model_name),
        Column("Deployment", lambda run: run.id, "Deployment"),
        Column("Type", lambda run: run.dtype, "bfloat16_"),
        Column("Context", lambda run: f"{run.context:,}", "0,000,000", True),
        Column("Asked", lambda run: clock(run.created_at), "2026-12-30 23:59:59"),
        Column("Changed", lambda run: clock(run.updated_at), "2026-12-30 23:59:59"),
    )
    time_column = 6

    def is_under_way(self, record: DeploymentRecord) -> bool:
        return record.status is DeploymentStatus.LOADING
