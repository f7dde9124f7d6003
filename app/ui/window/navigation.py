"""The rail at the left: one button for each screen."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QSize, Qt, Signal, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QAbstractButton, QButtonGroup, QFrame, QSizePolicy, QToolButton, QWidget

from app.ui import make
from app.ui.icons import icon
from app.ui.theme import SPACING


class NavigationRail(QFrame):
    """Shows which screen is open and opens others."""

    chosen = Signal(str)
    """The key of a screen."""

    def __init__(self, entries: Sequence[tuple[str, str, str]], parent: QWidget | None = None) -> None:
        """`entries`: key, title and icon of each screen, in order."""
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.setAccessibleName("Screens")
        self._group = QButtonGroup(self)
        self._group.setExclusive(True)
        self._buttons: dict[str, QToolButton] = {}
        self._layout = make.column(within=self, margins=SPACING, spacing=SPACING // 2)
        for number, (key, title, icon_name) in enumerate(entries, start=1):
            button = self._button(title, icon_name)
            button.setCheckable(True)
            button.setProperty("screen", key)
            button.setObjectName(f"navigate-{key}")
            button.setToolTip(f"{title} (Ctrl+{number})")
            self._group.addButton(button)
            self._buttons[key] = button
            self._layout.addWidget(button)
        self._layout.addStretch(1)
        self._group.buttonClicked.connect(self._on_clicked)

    def add_action(self, action: QAction) -> None:
        """A button at the foot of the rail."""
        button = self._button(action.iconText(), "")
        button.setDefaultAction(action)
        self._layout.addWidget(button)

    def show_current(self, key: str) -> None:
        """Mark a screen as the open one; a page that is no screen marks none."""
        button = self._buttons.get(key)
        if button is not None:
            button.setChecked(True)
        elif (checked := self._group.checkedButton()) is not None:
            self._group.setExclusive(False)
            checked.setChecked(False)
            self._group.setExclusive(True)

    def _button(self, title: str, icon_name: str) -> QToolButton:
        button = QToolButton(self)
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
        button.setIconSize(QSize(22, 22))
        button.setText(title)
        if icon_name:
            button.setIcon(icon(icon_name))
        button.setAccessibleName(title)
        # All as wide as the widest, so that their icons stand in one line.
        button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        button.setMinimumWidth(button.fontMetrics().horizontalAdvance("Preferences") + 2 * SPACING)
        return button

    @Slot(QAbstractButton)
    def _on_clicked(self, button: QAbstractButton) -> None:
        self.chosen.emit(str(button.property("screen")))
