"""Preferences: where everything is kept, how much disk it takes, and pruning what the registry remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QUrl, Slot
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton, QSpinBox, QWidget

from app.errors import ShardboardError
from app.ui.formats import size_text
from app.ui.icons import icon
from app.ui.notices import Level
from app.ui.shell.disk_use import DiskUse, measure
from app.ui.shell.preference_rows import Section
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller
    from app.registry import Registry
    from app.ui.bridge import Report

DEFAULT_DAYS = 30


class StorageSection(Section):
    """Folders with their sizes, measured when it is first shown."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__("Storage", parent)
        self._workbench = workbench
        self._sizes: dict[str, QLabel] = {}
        home = workbench.bridge.home
        if home is None:
            self.add_words("Shardboard's folder is not open yet.")
            return
        grid = QGridLayout()
        grid.setHorizontalSpacing(2 * SPACING)
        grid.setVerticalSpacing(SPACING)
        grid.setColumnStretch(1, 1)
        rows = (("Home", home.root, ""), ("Models", home.models, "models"), ("Logs", home.logs, "logs"),
                ("Agents here", home.agents, "agents"))  # fmt: skip
        for number, (name, folder, figure) in enumerate(rows):
            self._row(grid, number, name, folder, figure)
        self.column.addLayout(grid)
        self.free = self.add_words("Measuring…")

        async def work(controller: Controller, report: Report) -> DiskUse:
            return await asyncio.to_thread(measure, controller.home)

        call = workbench.bridge.call(work, "measuring the folders")
        call.done.connect(self._on_measured)
        call.failed.connect(self._on_failed)

    def _row(self, grid: QGridLayout, number: int, name: str, folder: Path, figure: str) -> None:
        label = QLabel(name, self)
        label.setProperty("role", "muted")
        place = QLabel(self)
        place.setText(place.fontMetrics().elidedText(str(folder), Qt.TextElideMode.ElideMiddle, 340))
        place.setToolTip(str(folder))
        place.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        size = QLabel("…" if figure else "", self)
        size.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if figure:
            self._sizes[figure] = size
        button = QPushButton(icon("folder-open"), "Open", self)
        button.setProperty("role", "quiet")
        button.setAccessibleName(f"Open the folder: {name}")
        button.clicked.connect(_opener(folder))
        for column, widget in enumerate((label, place, size, button)):
            grid.addWidget(widget, number, column)

    @Slot(object)
    def _on_measured(self, use: DiskUse) -> None:
        for name, size in self._sizes.items():
            size.setText(size_text(getattr(use, name)))
        self.free.setText(f"{size_text(use.free)} free on this disk.")

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self.free.setText(f"The folders could not be measured: {error.message}")


def _opener(folder: Path) -> Callable[[], bool]:
    return lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))


class RegistrySection(Section):
    """Forgetting old runs and events. The button asks by becoming another one, not by a window of its own."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__("Registry", parent)
        self._workbench = workbench
        self.add_words("Runs and events are kept until you remove them. Models, nodes and deployments stay.")
        self.days = QSpinBox(self)
        self.days.setRange(1, 3650)
        self.days.setValue(DEFAULT_DAYS)
        self.days.setSuffix(" days")
        self.days.setAccessibleName("Remove what is older than so many days")
        self.days.valueChanged.connect(self._calm_down)
        label = QLabel("Remove runs and events older than", self)
        label.setBuddy(self.days)
        self.button = QPushButton(icon("trash-2"), "Remove…", self)
        self.button.setObjectName("registry-prune")
        self.button.clicked.connect(self._on_first)
        self.confirm = QPushButton(self)
        self.confirm.setObjectName("registry-prune-confirm")
        self.confirm.setProperty("role", "danger")
        self.confirm.clicked.connect(self._on_confirmed)
        self.keep = QPushButton("Keep them", self)
        self.keep.clicked.connect(self._calm_down)
        row = QHBoxLayout()
        row.setSpacing(SPACING)
        row.addWidget(label)
        row.addWidget(self.days)
        row.addStretch(1)
        for button in (self.button, self.confirm, self.keep):
            row.addWidget(button)
        self.column.addLayout(row)
        self._calm_down()

    @Slot()
    def _calm_down(self) -> None:
        self.button.show()
        self.confirm.hide()
        self.keep.hide()

    @Slot()
    def _on_first(self) -> None:
        self.confirm.setText(f"Remove what is older than {self.days.value()} days for good")
        self.confirm.show()
        self.keep.show()
        self.button.hide()
        self.keep.setFocus()

    @Slot()
    def _on_confirmed(self) -> None:
        before = datetime.now(UTC) - timedelta(days=self.days.value())

        def prune(registry: Registry) -> tuple[int, int]:
            return registry.requests.prune(before), registry.events.prune(before=before)

        self._calm_down()
        self.button.setEnabled(False)
        call = self._workbench.bridge.read(prune, "removing old runs and events")
        call.done.connect(self._on_pruned)
        call.failed.connect(self._on_failed)
        call.ended.connect(self._on_ended)

    @Slot(object)
    def _on_pruned(self, removed: tuple[int, int]) -> None:
        runs, events = removed
        self._workbench.notices.toast(f"Removed {_count(runs, 'run')} and {_count(events, 'event')}.", Level.SUCCESS)

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self._workbench.notices.error("Old runs and events could not be removed", error)

    @Slot()
    def _on_ended(self) -> None:
        self.button.setEnabled(True)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
