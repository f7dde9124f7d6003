"""What stands in place of a conversation while there is none: questions to begin with, or the way to a model."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QRectF, Qt, Signal, Slot
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from app.ui.icons import draw_icon, icon
from app.ui.theme import SPACING, ThemeKeeper

SUGGESTIONS = (
    "What is the capital of France?",
    "Explain in three sentences how a language model works.",
    "Write a short poem about two computers that share one thought.",
)
COMPLETIONS = ("The capital of France is", "Once upon a time, on a small island,")


class Emblem(QWidget):
    """The screen's icon, large and quiet."""

    def __init__(self, theme: ThemeKeeper, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._name = theme, name
        self.setFixedSize(48, 48)
        theme.changed.connect(self.update)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.colors.accent_soft)
        painter.drawRoundedRect(self.rect(), 12, 12)
        draw_icon(painter, self._name, QRectF(self.rect()).adjusted(12, 12, -12, -12), self._theme.colors.accent)
        painter.end()


class _Page(QWidget):
    """An emblem, a title, a sentence, and what one can do, in the middle."""

    def __init__(self, theme: ThemeKeeper, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(3 * SPACING, 3 * SPACING, 3 * SPACING, 3 * SPACING)
        self.column.setSpacing(SPACING)
        self.column.addStretch(2)
        self.column.addWidget(Emblem(theme, name), 0, Qt.AlignmentFlag.AlignHCenter)
        self.title = QLabel()
        self.title.setProperty("role", "title")
        self.sentence = QLabel()
        self.sentence.setProperty("role", "muted")
        for label in (self.title, self.sentence):
            label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            label.setWordWrap(True)
            label.setTextFormat(Qt.TextFormat.PlainText)
            self.column.addWidget(label)
        self.column.addSpacing(SPACING)


class NothingHere(_Page):
    """No model is deployed, and none could be loaded."""

    board_wanted = Signal()
    welcome_wanted = Signal()

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(theme, "message-square", parent)
        self.title.setText("No model to talk to yet")
        self.sentence.setText("Put a model on the Board and deploy it, or let the first steps set up a small one here.")
        buttons = QHBoxLayout()
        buttons.setSpacing(SPACING)
        buttons.addStretch()
        first = QPushButton("First steps")
        first.setProperty("role", "primary")
        first.setIcon(icon("rocket", theme.colors.on_accent))
        first.clicked.connect(self.welcome_wanted)
        board = QPushButton("Go to Board")
        board.setIcon(icon("layout-dashboard"))
        board.clicked.connect(self.board_wanted)
        buttons.addWidget(first)
        buttons.addWidget(board)
        buttons.addStretch()
        self.column.addLayout(buttons)
        self.column.addStretch(3)


class Suggestions(_Page):
    """An empty conversation: questions to begin with."""

    asked = Signal(str)

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(theme, "sparkles", parent)
        self._raw: bool | None = None
        self._chips = QVBoxLayout()
        self._chips.setSpacing(SPACING)
        self.column.addLayout(self._chips)
        self.column.addStretch(3)
        self.show_for("", "", raw=False)

    def show_for(self, model: str, note: str, *, raw: bool) -> None:
        """Offer to begin with this model."""
        if not model:
            self.title.setText("Choose a model to talk to")
        else:
            self.title.setText(f"Continue a text with {model}" if raw else f"Talk to {model}")
        self.sentence.setText(note)
        if raw != self._raw:
            self._raw = raw
            self._fill(COMPLETIONS if raw else SUGGESTIONS)

    def set_can_ask(self, can_ask: bool) -> None:
        for chip in self.findChildren(QPushButton):
            chip.setEnabled(can_ask)

    def _fill(self, texts: tuple[str, ...]) -> None:
        while (item := self._chips.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.setParent(None)
                widget.deleteLater()
        for text in texts:
            chip = QPushButton(text)
            chip.setToolTip("Ask this")
            chip.clicked.connect(partial(self._ask, text))
            self._chips.addWidget(chip, 0, Qt.AlignmentFlag.AlignHCenter)

    @Slot()
    def _ask(self, text: str, checked: bool = False) -> None:
        self.asked.emit(text)
