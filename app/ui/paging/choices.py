"""What the filters above paged tables share: a search that waits for the end of typing, and boxes to choose from."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QSignalBlocker, Signal, Slot
from PySide6.QtWidgets import QComboBox, QWidget

from app.ui import make

TYPING_MILLISECONDS = 250
"""After the last key, so that not every letter is searched for."""


class ChoiceBox(QComboBox):
    """A choice of the filter; its first one is: everything."""

    def __init__(self, name: str, items: Sequence[str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.addItems(list(items))
        self.setAccessibleName(name)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)

    def fill(self, items: Sequence[str], chosen: str) -> None:
        """Offer others without a word of it; what is chosen stays chosen where it is still there."""
        if list(items) == [self.itemText(index) for index in range(self.count())]:
            return
        with QSignalBlocker(self):
            self.clear()
            self.addItems(list(items))
            self.setCurrentIndex(list(items).index(chosen) if chosen in items else 0)

    def choose_all(self) -> None:
        """Back to everything, without a word of it."""
        with QSignalBlocker(self):
            self.setCurrentIndex(0)


class SearchRow(QWidget):
    """A search and boxes in a row. Emits `edited` when what is wanted is another, at the latest with Return."""

    edited = Signal()

    def __init__(self, placeholder: str, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.boxes: list[ChoiceBox] = []
        self.search = make.field(placeholder, name, self, searches=True)
        self._row = make.row((self.search, 1), within=self)
        self._typing = make.timer(self, self._on_edited, TYPING_MILLISECONDS)
        self.search.textChanged.connect(self._on_typed)
        self.search.returnPressed.connect(self._on_edited)

    def add_box(self, name: str, items: Sequence[str]) -> ChoiceBox:
        box = ChoiceBox(name, items, self)
        self.boxes.append(box)
        self._row.addWidget(box)
        box.currentIndexChanged.connect(self._on_edited)
        return box

    @property
    def text(self) -> str:
        return self.search.text().strip()

    @Slot()
    def reset(self) -> None:
        """Everything is shown."""
        for box in self.boxes:
            box.choose_all()
        self.search.clear()
        self._on_edited()

    @Slot()
    def _on_typed(self) -> None:
        self._typing.start()

    @Slot()
    def _on_edited(self) -> None:
        self._typing.stop()
        self.edited.emit()
