"""What stands in place of a conversation while there is none: questions to begin with."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QPushButton, QWidget

from app.ui import make
from app.ui.empty_state import EmptyState
from app.ui.theme import ThemeKeeper

SUGGESTIONS = (
    "What is the capital of France?",
    "Explain in three sentences how a language model works.",
    "Write a short poem about two computers that share one thought.",
)
COMPLETIONS = ("The capital of France is", "Once upon a time, on a small island,")


class Suggestions(EmptyState):
    """An empty conversation: questions to begin with."""

    asked = Signal(str)

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(theme, parent)
        self._raw: bool | None = None
        self.show_for("", "", raw=False)

    def show_for(self, model: str, note: str, *, raw: bool) -> None:
        """Offer to begin with this model."""
        begin = f"Continue a text with {model}" if raw else f"Talk to {model}"
        self.say("sparkles", begin if model else "Choose a model to talk to", note)
        if raw != self._raw:
            self._raw = raw
            self._fill(COMPLETIONS if raw else SUGGESTIONS)

    def set_can_ask(self, can_ask: bool) -> None:
        for chip in self.findChildren(QPushButton):
            chip.setEnabled(can_ask)

    def _fill(self, texts: tuple[str, ...]) -> None:
        while (item := self.column.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.setParent(None)
                widget.deleteLater()
        for text in texts:
            chip = make.button(text, partial(self._ask, text), tip="Ask this")
            self.column.addWidget(chip, 0, Qt.AlignmentFlag.AlignHCenter)

    @Slot()
    def _ask(self, text: str, checked: bool = False) -> None:
        self.asked.emit(text)
