"""What the inspector's pages share: a title with a line under it, facts in sections, and buttons."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtGui import QAction
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from app.ui.board.panes.elided_label import ElidedLabel
from app.ui.board.panes.facts import Facts
from app.ui.theme import SPACING


class Page(QWidget):
    """A column that is filled from above by its maker."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.title = ElidedLabel()
        self.title.setProperty("role", "title")
        self.subtitle = QLabel()
        self.subtitle.setProperty("role", "muted")
        self.subtitle.setWordWrap(True)
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(0, 0, 0, 0)
        self.column.setSpacing(SPACING)
        self.column.addWidget(self.title)
        self.column.addWidget(self.subtitle)
        self._headings: dict[Facts, QLabel] = {}

    def section(self, heading: str) -> Facts:
        """Facts under a heading."""
        label = QLabel(heading)
        label.setProperty("role", "heading")
        facts = Facts()
        self.column.addSpacing(SPACING)
        self.column.addWidget(label)
        self.column.addWidget(facts)
        self._headings[facts] = label
        return facts

    def show_section(self, facts: Facts, shown: bool) -> None:
        """Show a section with its heading, or neither."""
        facts.setVisible(shown)
        self._headings[facts].setVisible(shown)

    def button(self, text: str, run: Callable[[], object]) -> QPushButton:
        made = QPushButton(text)
        made.clicked.connect(run)
        self.column.addWidget(made)
        return made

    def commands(self, *actions: tuple[str, QAction]) -> None:
        """Buttons for commands of the screen side by side, each with its short text."""
        row = QHBoxLayout()
        row.setSpacing(SPACING)
        for text, action in actions:
            row.addWidget(self._command(text, action), 1)
        self.column.addLayout(row)

    def _command(self, text: str, action: QAction) -> QPushButton:
        made = QPushButton(text)
        made.setAccessibleName(action.text())
        made.clicked.connect(action.trigger)

        def follow() -> None:
            made.setEnabled(action.isEnabled())
            keys = action.shortcut().toString()
            tip = action.statusTip() or action.text()
            made.setToolTip(f"{tip} ({keys})" if keys and action.isEnabled() else tip)

        action.changed.connect(follow)
        follow()
        return made
