"""Preferences: where everything is kept, and how much disk it takes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QUrl, Slot
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QGridLayout, QLabel, QWidget

from app.errors import ShardboardError
from app.figures import size_text
from app.paths import Home
from app.ui import make
from app.ui.shell.preference_rows import Section
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller
    from app.ui.bridge import Report


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
        grid = make.grid()
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
        label = make.label(name, "muted", self)
        place = QLabel(self)
        place.setText(place.fontMetrics().elidedText(str(folder), Qt.TextElideMode.ElideMiddle, 340))
        place.setToolTip(str(folder))
        place.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        size = QLabel("…" if figure else "", self)
        size.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if figure:
            self._sizes[figure] = size
        button = make.button(
            "Open", _opener(folder), self, picture="folder-open", role="quiet", name=f"Open the folder: {name}"
        )
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


@dataclass(frozen=True)
class DiskUse:
    """Bytes."""

    models: int
    logs: int
    agents: int
    """What agents of this machine keep of the models."""
    free: int


def folder_bytes(folder: Path) -> int:
    """Of all files below, as long as they are; what vanishes meanwhile counts nothing."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                total += Path(place, file).lstat().st_size
    return total


def measure(home: Home) -> DiskUse:
    import shutil

    return DiskUse(
        models=folder_bytes(home.models),
        logs=folder_bytes(home.logs),
        agents=folder_bytes(home.agents),
        free=shutil.disk_usage(home.root).free,
    )
