"""The filters above the log: text, level, source, node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import QTimer, Signal, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLineEdit, QWidget

from app.registry import EventLevel
from app.ui.icons import icon
from app.ui.log.event_model import EventListing
from app.ui.theme import SPACING

TYPING_MILLISECONDS = 250
LEVELS = (
    ("All levels", EventLevel.DEBUG),
    ("Info or worse", EventLevel.INFO),
    ("Warning or worse", EventLevel.WARNING),
    ("Errors", EventLevel.ERROR),
)


class LogFilter(QWidget):
    """Emits `changed` with an EventListing."""

    changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(TYPING_MILLISECONDS)
        self._typing.timeout.connect(self._on_changed)
        self.search = QLineEdit(self)
        self.search.setPlaceholderText("Search messages")
        self.search.setAccessibleName("Search the log")
        self.search.setClearButtonEnabled(True)
        self.search.addAction(QAction(icon("search"), "", self.search), QLineEdit.ActionPosition.LeadingPosition)
        self.levels = self._box("Level", [name for name, _ in LEVELS])
        self.levels.setCurrentIndex(1)
        self.sources = self._box("Source", ["Any source"])
        self.nodes = self._box("Node", ["Any node"])
        self._node_ids: list[int | None] = [None]
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addWidget(self.search, 1)
        for box in (self.levels, self.sources, self.nodes):
            layout.addWidget(box)
            box.currentIndexChanged.connect(self._on_changed)
            self.search.textChanged.connect(self._on_typed)
        self.search.returnPressed.connect(self._on_changed)

    def _box(self, name: str, items: list[str]) -> QComboBox:
        box = QComboBox(self)
        box.addItems(items)
        box.setAccessibleName(name)
        box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        return box

    def value(self) -> EventListing:
        return EventListing(
            self.search.text().strip(),
            LEVELS[max(0, self.levels.currentIndex())][1],
            self.sources.currentText() if self.sources.currentIndex() > 0 else None,
            self._node_ids[max(0, self.nodes.currentIndex())],
        )

    def set_sources(self, names: Sequence[str]) -> None:
        self._fill(self.sources, ["Any source", *names], self.sources.currentText())

    def set_nodes(self, names: Mapping[int, str]) -> None:
        chosen = self._node_ids[max(0, self.nodes.currentIndex())]
        self._node_ids = [None, *names]
        if chosen is not None and chosen not in names:
            self._node_ids.append(chosen)
        words = ["Any node", *(names.get(id, f"node {id}") for id in self._node_ids[1:] if id is not None)]
        self._fill(self.nodes, words, words[self._node_ids.index(chosen)])

    def choose_node(self, id: int | None) -> None:
        """Show what is about a node, also one that is gone."""
        if id not in self._node_ids:
            self._node_ids.append(id)
            self.nodes.addItem(f"node {id}")
        self.nodes.setCurrentIndex(self._node_ids.index(id))

    @Slot()
    def reset(self) -> None:
        """Everything is shown."""
        for box in (self.levels, self.sources, self.nodes):
            box.blockSignals(True)
            box.setCurrentIndex(0)
            box.blockSignals(False)
        self.search.clear()
        self._on_changed()

    @staticmethod
    def _fill(box: QComboBox, items: list[str], chosen: str) -> None:
        if items == [box.itemText(index) for index in range(box.count())]:
            return
        box.blockSignals(True)
        box.clear()
        box.addItems(items)
        box.setCurrentIndex(items.index(chosen) if chosen in items else 0)
        box.blockSignals(False)

    @Slot()
    def _on_typed(self) -> None:
        self._typing.start()

    @Slot()
    def _on_changed(self) -> None:
        self._typing.stop()
        self.changed.emit(self.value())
