"""A screen of the window: what all five have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from PySide6.QtGui import QAction, QHideEvent, QShowEvent
from PySide6.QtWidgets import QWidget

from app.ui.workbench import Workbench


class Screen(QWidget):
    """Subclasses set `key`, `title`, `icon` and build themselves in `__init__`.

    A screen does live work only while `is_live`: hidden ones must cost nothing.
    """

    key: ClassVar[str]
    """board, chat, nodes, runs, log"""
    title: ClassVar[str]
    icon: ClassVar[str]
    """A file of resources/icons, without its ending."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench = workbench
        self.is_live = False
        self.setObjectName(f"screen-{self.key}")

    def commands(self) -> list[QAction]:
        """What can be done here, for the menu named like the screen and for the command palette.

        Actions have a text, an icon, and a shortcut where there is one; the same objects each time.
        """
        return []

    def open_with(self, what: object) -> None:
        """`Workbench.navigate` brought the user here with something to show."""

    def busy_with(self) -> list[str]:
        """What would be interrupted by closing the window, each as a short phrase: "an answer of SmolLM2"."""
        return []

    def save(self) -> dict[str, Any]:
        """What to find again at the next start, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """What `save` returned the last time; anything may be missing or out of date."""

    def went_live(self) -> None:
        """The screen is visible from now on."""

    def went_quiet(self) -> None:
        """The screen is hidden from now on."""

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if not self.is_live:
            self.is_live = True
            self.went_live()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        if self.is_live:
            self.is_live = False
            self.went_quiet()
