"""What stands in the place of the table while there is no node: what a node is for, and three ways to one."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from app.ui.icons import icon
from app.ui.nodes.node_dialog import wrapped
from app.ui.theme import SPACING, ThemeKeeper


class NodesEmpty(QWidget):
    """Buttons for these actions; the first is the one to begin with."""

    def __init__(self, theme: ThemeKeeper, actions: Sequence[QAction], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._picture = QLabel()
        self._picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        title = QLabel("No nodes yet")
        title.setProperty("role", "title")
        title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        text = wrapped("A node is a machine with an agent on it, which runs layers of a model. Start with this one.")
        text.setAlignment(Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop)
        buttons = QHBoxLayout()
        buttons.setSpacing(SPACING)
        buttons.addStretch(1)
        for number, action in enumerate(actions):
            button = QPushButton(action.icon(), action.text())
            if number == 0:
                button.setProperty("role", "primary")
                button.setIcon(icon("rocket", theme.colors.on_accent))
                self._first = button
            button.setToolTip(action.toolTip())
            button.clicked.connect(action.trigger)
            buttons.addWidget(button)
        buttons.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setSpacing(SPACING)
        layout.addStretch(2)
        layout.addWidget(self._picture)
        layout.addSpacing(SPACING)
        layout.addWidget(title)
        layout.addWidget(text)
        layout.addSpacing(2 * SPACING)
        layout.addLayout(buttons)
        layout.addStretch(3)
        theme.changed.connect(self._on_theme)
        self._on_theme()

    def _on_theme(self) -> None:
        side = self.fontMetrics().height() * 3
        self._picture.setPixmap(icon("server", self._theme.colors.muted).pixmap(side, side))
        self._first.setIcon(icon("rocket", self._theme.colors.on_accent))
