"""What can be done in Chat, as actions for the menu, the command palette and the keyboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt
from PySide6.QtGui import QAction, QKeySequence

from app.ui.icons import icon

if TYPE_CHECKING:
    from app.ui.chat.chat_screen import ChatScreen


class ChatActions(QObject):
    """Made once; the same objects each time. Shortcuts work while Chat has the focus."""

    def __init__(self, screen: ChatScreen) -> None:
        super().__init__(screen)
        self._screen = screen
        self.new = self._make("New chat", "plus", screen.new_chat, "Ctrl+N", "Begin another conversation")
        self.stop = self._make("Stop answer", "circle-stop", screen.stop, "", "End the answer; its text stays (Esc)")
        self.regenerate = self._make(
            "Regenerate answer", "refresh-cw", screen.regenerate, "Ctrl+R", "Have the last answer written anew"
        )
        self.focus = self._make("Go to the message box", "keyboard", screen.focus_input, "Ctrl+L", "Write a message")
        self.copy = self._make(
            "Copy last answer",
            "copy",
            screen.copy_last_answer,
            "Ctrl+Shift+C",
            "As the model wrote it, with its Markdown",
        )
        self.parameters = self._make(
            "Parameters", "sliders-horizontal", None, "Ctrl+Shift+P", "Show or hide system prompt and sampling"
        )
        self.parameters.setCheckable(True)
        self.parameters.toggled.connect(screen.show_parameters)

    def all(self) -> list[QAction]:
        return [self.new, self.stop, self.regenerate, self.focus, self.copy, self.parameters]

    def show_state(self, *, streaming: bool, answered: bool, text: bool) -> None:
        """Offer what can be done now."""
        self.stop.setEnabled(streaming)
        self.regenerate.setEnabled(answered and not streaming)
        self.copy.setEnabled(text)

    def _make(self, text: str, name: str, run: Callable[[], None] | None, key: str, tip: str) -> QAction:
        action = QAction(icon(name), text, self._screen)
        if key:
            action.setShortcut(QKeySequence(key))
            action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            tip = f"{tip} ({action.shortcut().toString()})"
        action.setToolTip(tip)
        if run is not None:
            action.triggered.connect(run)
        self._screen.addAction(action)
        return action
