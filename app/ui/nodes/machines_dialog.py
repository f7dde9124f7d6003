"""All ways to machines in one place: this one, one that is found, SSH, Ray, a line to paste, an agent that runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QLabel, QPushButton, QSizePolicy, QWidget

from app.launchers.launcher import LauncherName, LauncherState
from app.ui import make
from app.ui.nodes.node_dialog import FittedDialog, wrapped
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller

_INTRODUCTION = (
    "A node is a machine with an agent on it. Whatever brings the agent there, both ends then know each other's key, "
    "and only they speak with each other."
)


@dataclass(frozen=True)
class Way:
    """One way to a machine."""

    action: QAction
    """Opens what asks for the rest."""
    picture: str
    sentence: str
    """When to take it."""
    launcher: LauncherName | None = None
    """Which of the controller's launchers it is; None where somebody starts the agent there."""


class MachinesDialog(FittedDialog):
    """Closes and opens what the chosen way asks. A way whose launcher cannot be used here says why."""

    def __init__(self, workbench: Workbench, ways: Sequence[Way], parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("nodes-machines-dialog")
        self.setWindowTitle("Add machines")
        self.setModal(True)
        self.buttons: dict[str, QPushButton] = {}
        self._ways: dict[LauncherName, tuple[QPushButton, QLabel]] = {}
        rows = make.grid(across=2 * SPACING, down=2 * SPACING, wide=1)
        for number, way in enumerate(ways):
            text = way.action.text().rstrip("…")
            button = make.button(text, lambda checked=False, way=way: self._take(way), self, picture=way.picture)
            button.setSizePolicy(QSizePolicy.Policy.MinimumExpanding, QSizePolicy.Policy.Fixed)
            sentence = wrapped(way.sentence)
            rows.addWidget(button, number, 0)
            rows.addWidget(sentence, number, 1)
            self.buttons[text] = button
            if way.launcher is not None:
                self._ways[way.launcher] = button, sentence
        close = make.button("Cancel", self.reject, by_return=False)
        make.column(
            make.label("Add machines", "title"), wrapped(_INTRODUCTION), rows, make.STRETCH,
            make.row(make.STRETCH, close), within=self, margins=make.DIALOG, spacing=2 * SPACING,
        )  # fmt: skip
        self.setMinimumWidth(self.fontMetrics().averageCharWidth() * 92)
        workbench.bridge.call(_launchers, "looking what can bring agents").done.connect(self._on_launchers)

    def _take(self, way: Way) -> None:
        self.accept()
        way.action.trigger()

    @Slot(object)
    def _on_launchers(self, states: list[LauncherState]) -> None:
        for state in states:
            if state.problem and state.name in self._ways:
                button, sentence = self._ways[state.name]
                button.setEnabled(False)
                sentence.setText(f"{sentence.text()} {state.problem}")


async def _launchers(controller: Controller, report: object) -> list[LauncherState]:
    from app.launching import launchers

    return await launchers(controller)
