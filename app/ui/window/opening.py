"""What the window shows before its registry is open, and why when it cannot be opened."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QLabel, QVBoxLayout, QWidget

from app.errors import ShardboardError
from app.ui import make
from app.ui.icons import mark
from app.ui.theme import SPACING


class OpeningPage(QWidget):
    """Nothing for the moment it takes to open; an error with what to do when it fails."""

    try_again = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QVBoxLayout(self)
        layout.setAlignment(Qt.AlignmentFlag.AlignCenter)
        layout.setSpacing(SPACING)
        self._mark = QLabel()
        self._mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._title = make.label("", "title")
        self._title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._text = make.label(wraps=True)
        self._text.setMaximumWidth(560)
        self._text.setMinimumWidth(420)
        self._text.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._again = make.button("Try again", self.try_again, role="primary")
        buttons = make.row(make.STRETCH, self._again, make.STRETCH, spacing=None)
        for widget in (self._mark, self._title, self._text):
            layout.addWidget(widget, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addSpacing(SPACING)
        layout.addLayout(buttons)
        self._again.hide()

    def show_error(self, error: ShardboardError) -> None:
        """The registry could not be opened."""
        self._mark.setPixmap(mark("circle-alert", side=40))
        self._title.setText("Shardboard could not open its registry")
        self._text.setText(f"{error.message}\n{error.advice}")
        self._again.show()
        self._again.setFocus()

    def clear(self) -> None:
        """Opening begins again."""
        self._mark.clear()
        self._title.clear()
        self._text.clear()
        self._again.hide()
