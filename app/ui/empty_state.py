"""What stands in the place of something that is not there yet: a picture, what is missing, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QRectF, Qt, Signal, Slot
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app.ui import make
from app.ui.icons import draw_icon, icon
from app.ui.theme import SPACING, ThemeKeeper


class EmptyState(QFrame):
    """In the middle of its room, a little above. `offer` adds a button; `say` may show one that only tells."""

    pressed = Signal()
    """The button of `say`."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._emblem = _Emblem(theme, self)
        self._title = make.label("", "title", self)
        self._sentence = make.label("", "muted", self)
        self._sentence.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        self._button: QPushButton | None = None
        self._primary: list[tuple[QPushButton, str]] = []
        self._buttons = make.row(make.STRETCH, make.STRETCH)
        self.column = QVBoxLayout()
        """For what subclasses add below."""
        self.column.setSpacing(SPACING)
        layout = make.column(
            make.Stretch(2), (self._emblem, 0, Qt.AlignmentFlag.AlignHCenter), within=self, margins=3 * SPACING
        )
        for label in (self._title, self._sentence):
            label.setAlignment(Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop)
            label.setWordWrap(True)
            label.setTextFormat(Qt.TextFormat.PlainText)
            layout.addWidget(label)
        layout.addSpacing(SPACING)
        layout.addLayout(self._buttons)
        layout.addLayout(self.column)
        layout.addStretch(3)
        theme.changed.connect(self._recolour)

    def say(self, picture: str, title: str, sentence: str, button: str = "") -> None:
        """Show these words; a button that is named tells `pressed`."""
        self._emblem.show_icon(picture)
        self._title.setText(title)
        self._sentence.setText(sentence)
        self._sentence.setVisible(bool(sentence))
        if button and self._button is None:
            self._button = self.offer(button, self.pressed.emit)
        if self._button is not None:
            self._button.setText(button)
            self._button.setVisible(bool(button))

    def offer(
        self, text: str, run: Callable[[], object], picture: str = "", *, primary: bool = False, tip: str = ""
    ) -> QPushButton:
        """Add a button beside those that are there; a primary one is what to begin with."""
        button = make.button(text, lambda: run(), self, tip=tip)
        if primary:
            button.setProperty("role", "primary")
        if picture:
            button.setIcon(icon(picture))
        if picture and primary:  # the others' follow the palette by themselves
            self._primary.append((button, picture))
            self._recolour()
        self._buttons.insertWidget(self._buttons.count() - 1, button)
        return button

    @Slot()
    def _recolour(self) -> None:
        for button, picture in self._primary:
            button.setIcon(icon(picture, self._theme.colors.on_accent))

    @property
    def text(self) -> str:
        return f"{self._title.text()} {self._sentence.text()}"


class _Emblem(QWidget):
    """A picture, large and quiet."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme, self._name = theme, ""
        self.setFixedSize(48, 48)
        theme.changed.connect(self.update)

    def show_icon(self, name: str) -> None:
        self._name = name
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.colors.accent_soft)
        painter.drawRoundedRect(self.rect(), 12, 12)
        draw_icon(painter, self._name, QRectF(self.rect()).adjusted(12, 12, -12, -12), self._theme.colors.accent)
        painter.end()
