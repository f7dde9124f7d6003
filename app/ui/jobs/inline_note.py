"""A line under a field: what it means, or what is wrong with it. Keeps its place when it is empty."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QSizePolicy, QWidget

from app.errors import ShardboardError
from app.ui import make


class InlineNote(QLabel):
    """Says what a field means, or what is wrong with it; `is_error` tells which."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.setMinimumHeight(self.fontMetrics().height())
        self._say("", "muted")

    @property
    def is_error(self) -> bool:
        return bool(self.property("role") == "error")

    def say(self, text: str) -> None:
        """What the field means."""
        self._say(text, "muted")

    def refuse(self, error: ShardboardError) -> None:
        """What is wrong with it, and what to do."""
        self._say(str(error), "error")

    def _say(self, text: str, role: str) -> None:
        self.setText(text)
        make.change_role(self, role)
