"""What stands in the place of a table without rows: a sentence, and what to do."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtWidgets import QFrame, QLabel, QPushButton, QVBoxLayout, QWidget

from app.ui.icons import icon
from app.ui.theme import SPACING, ThemeKeeper


class EmptyState(QFrame):
    """An icon, a sentence, a hint and a button."""

    pressed = Signal()

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._theme = theme
        self._icon_name = "list"
        self._icon = QLabel(self)
        self._icon.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._title = QLabel(self)
        self._title.setProperty("role", "heading")
        self._title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._hint = QLabel(self)
        self._hint.setProperty("role", "muted")
        self._hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._hint.setWordWrap(True)
        self._button = QPushButton(self)
        self._button.clicked.connect(self.pressed)
        layout = QVBoxLayout(self)
        layout.setSpacing(SPACING)
        layout.setContentsMargins(4 * SPACING, 4 * SPACING, 4 * SPACING, 4 * SPACING)
        layout.addStretch(2)
        layout.addWidget(self._icon)
        layout.addWidget(self._title)
        layout.addWidget(self._hint)
        layout.addSpacing(SPACING)
        layout.addWidget(self._button, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addStretch(3)
        theme.changed.connect(self._draw_icon)

    def say(self, icon_name: str, title: str, hint: str, button: str = "") -> None:
        self._icon_name = icon_name
        self._title.setText(title)
        self._hint.setText(hint)
        self._button.setText(button)
        self._button.setVisible(bool(button))
        self._draw_icon()

    @property
    def text(self) -> str:
        return f"{self._title.text()} {self._hint.text()}"

    def _draw_icon(self) -> None:
        self._icon.setPixmap(icon(self._icon_name, self._theme.colors.muted).pixmap(QSize(32, 32)))
