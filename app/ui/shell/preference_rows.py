"""The rows preferences are made of: a titled card, a switch with a sentence, a choice. Each sets its key at once."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QCheckBox, QComboBox, QFrame, QLabel, QWidget

from app.ui import make
from app.ui.settings import Settings
from app.ui.theme import SPACING


class Section(QFrame):
    """A card with a heading, to which rows are added."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        heading = make.label(title, "heading", self)
        self.column = make.column(
            heading, within=self, margins=(2 * SPACING + 4, 2 * SPACING, 2 * SPACING + 4, 2 * SPACING),
            spacing=SPACING + 4,
        )  # fmt: skip

    def add_words(self, text: str) -> QLabel:
        label = make.label(text, "muted", self, wraps=True)
        self.column.addWidget(label)
        return label


class Switch(QWidget):
    """A preference that is on or off, and what that means in a sentence."""

    def __init__(self, settings: Settings, key: str, text: str, meaning: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings, self._key = settings, key
        self.box = QCheckBox(text, self)
        self.box.setObjectName(f"preference-{key}")
        self.box.setAccessibleDescription(meaning)
        self.box.setChecked(bool(settings.get(key)))
        self.box.toggled.connect(self._on_toggled)
        words = make.label(meaning, "muted", self, wraps=True)
        words.setContentsMargins(self.box.iconSize().width() + SPACING, 0, 0, 0)
        make.column(self.box, words, within=self, spacing=2)
        settings.changed.connect(self._on_changed)

    @Slot(bool)
    def _on_toggled(self, on: bool) -> None:
        self._settings.set(self._key, on)

    @Slot(str)
    def _on_changed(self, key: str) -> None:
        if key == self._key:
            self.box.setChecked(bool(self._settings.get(key)))


class Choice(QWidget):
    """A preference with a few values; `options` are (value, text), `meaning` a sentence about them."""

    def __init__(
        self,
        settings: Settings,
        key: str,
        text: str,
        options: Sequence[tuple[str | int, str]],
        meaning: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._settings, self._key = settings, key
        self.box = make.dressed(QComboBox(self), key=f"preference-{key}", name=text)
        for value, words in options:
            self.box.addItem(words, value)
        self._show()
        self.box.currentIndexChanged.connect(self._on_chosen)
        row = make.row((make.label_of(self.box, text), 1), (self.box, 0, Qt.AlignmentFlag.AlignRight), spacing=None)
        column = make.column(row, within=self, spacing=2)
        if meaning:
            note = make.label(meaning, "muted", self, wraps=True)
            self.box.setAccessibleDescription(meaning)
            column.addWidget(note)
        settings.changed.connect(self._on_changed)

    @Slot(int)
    def _on_chosen(self, index: int) -> None:
        self._settings.set(self._key, self.box.itemData(index))

    @Slot(str)
    def _on_changed(self, key: str) -> None:
        if key == self._key:
            self._show()

    def _show(self) -> None:
        """A value that was written by hand is shown as it is, so that looking at it does not change it."""
        value = self._settings.get(self._key)
        if self.box.findData(value) < 0:
            self.box.addItem(f"{value:,}" if isinstance(value, int) else str(value), value)
        self.box.setCurrentIndex(self.box.findData(value))
