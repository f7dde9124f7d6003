"""What can be done in Chat, as actions for the menu, the command palette and the keyboard."""

from __future__ import annotations

from PySide6.QtCore import QObject
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QWidget

from app.ui import make


class ChatActions(QObject):
    """Made once; the same objects each time. The screen says what they do; shortcuts work while it has the focus."""

    def __init__(self, screen: QWidget) -> None:
        super().__init__(screen)
        self._screen = screen
        self.new = self._make("New chat", "plus", "Ctrl+N", "Begin another conversation")
        self.stop = self._make("Stop answer", "circle-stop", "", "End the answer; its text stays (Esc)")
        self.regenerate = self._make("Regenerate answer", "refresh-cw", "Ctrl+R", "Have the last answer written anew")
        self.focus = self._make("Go to the message box", "keyboard", "Ctrl+L", "Write a message")
        self.copy = self._make(
            "Copy last answer", "copy", "Ctrl+Shift+C", "As the model wrote it, with its Markdown"
        )  # fmt: skip
        self.parameters = self._make(
            "Parameters", "sliders-horizontal", "Ctrl+Shift+P", "Show or hide system prompt and sampling"
        )
        self.parameters.setCheckable(True)

    def all(self) -> list[QAction]:
        return [self.new, self.stop, self.regenerate, self.focus, self.copy, self.parameters]

    def show_state(self, *, streaming: bool, answered: bool, text: bool) -> None:
        """Offer what can be done now."""
        self.stop.setEnabled(streaming)
        self.regenerate.setEnabled(answered and not streaming)
        self.copy.setEnabled(text)

    def _make(self, text: str, name: str, key: str, tip: str) -> QAction:
        action = make.command(self._screen, name, text, keys=key, tip=tip)
        self._screen.addAction(action)
        return action
