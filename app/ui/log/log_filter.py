"""The filters above the log: text, level, source, node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QWidget

from app.registry import EventLevel
from app.ui.log.event_model import EventListing
from app.ui.paging.choices import SearchRow

LEVELS = (
    ("All levels", EventLevel.DEBUG),
    ("Info or worse", EventLevel.INFO),
    ("Warning or worse", EventLevel.WARNING),
    ("Errors", EventLevel.ERROR),
)


class LogFilter(SearchRow):
    """Emits `changed` with an EventListing."""

    changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Search messages", "Search the log", parent)
        self.levels = self.add_box("Level", [name for name, _ in LEVELS])
        self.levels.setCurrentIndex(1)
        self.sources = self.add_box("Source", ["Any source"])
        self.nodes = self.add_box("Node", ["Any node"])
        self._node_ids: list[int | None] = [None]
        self.edited.connect(self._on_changed)

    def value(self) -> EventListing:
        return EventListing(
            self.text,
            LEVELS[max(0, self.levels.currentIndex())][1],
            self.sources.currentText() if self.sources.currentIndex() > 0 else None,
            self._node_ids[max(0, self.nodes.currentIndex())],
        )

    def set_sources(self, names: Sequence[str]) -> None:
        self.sources.fill(["Any source", *names], self.sources.currentText())

    def set_nodes(self, names: Mapping[int, str]) -> None:
        chosen = self._node_ids[max(0, self.nodes.currentIndex())]
        self._node_ids = [None, *names]
        if chosen is not None and chosen not in names:
            self._node_ids.append(chosen)
        words = ["Any node", *(names.get(id, f"node {id}") for id in self._node_ids[1:] if id is not None)]
        self.nodes.fill(words, words[self._node_ids.index(chosen)])

    def choose_node(self, id: int | None) -> None:
        """Show what is about a node, also one that is gone."""
        if id not in self._node_ids:
            self._node_ids.append(id)
            self.nodes.addItem(f"node {id}")
        self.nodes.setCurrentIndex(self._node_ids.index(id))

    @Slot()
    def _on_changed(self) -> None:
        self.changed.emit(self.value())
