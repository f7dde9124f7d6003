"""Sorting and filtering the table of nodes, without sorting anew on every beat."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QObject, QSortFilterProxyModel, QTimer, Slot

from app.ui import make
from app.ui.list_delegate import Index
from app.ui.nodes.nodes_model import NodeRole, NodesModel

RESORT_MILLISECONDS = 2000
"""A column that lives is put in order again so often, and at once when the user asks."""


class NodesProxy(QSortFilterProxyModel):
    """Follows no `dataChanged` by itself: with 100 nodes that would sort without end. Every word must be found."""

    def __init__(self, model: NodesModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._words: tuple[str, ...] = ()
        self.setDynamicSortFilter(False)
        self.setSortRole(NodeRole.SORT)
        self.setSourceModel(model)
        self._resort = make.timer(self, self.refresh, RESORT_MILLISECONDS)
        model.dataChanged.connect(self._on_data)
        model.rowsInserted.connect(self._on_rows)
        model.modelReset.connect(self._on_rows)

    def set_filter(self, text: str) -> None:
        """Show the rows that hold every word of a text, in any column."""
        words = tuple(text.casefold().split())
        if words != self._words:
            self._words = words
            self.invalidate()

    @property
    def is_filtered(self) -> bool:
        return bool(self._words)

    def filterAcceptsRow(self, source_row: int, source_parent: Index) -> bool:
        if not self._words:
            return True
        found = self.sourceModel().index(source_row, 0, source_parent).data(NodeRole.WORDS)
        return all(word in found for word in self._words)

    @Slot()
    def refresh(self) -> None:
        """Put the rows in order, and filter them again, by what they are now."""
        if self._words:
            self.invalidate()
        elif self.sortColumn() >= 0:
            self.sort(self.sortColumn(), self.sortOrder())

    @Slot(QModelIndex, QModelIndex)
    def _on_data(self, first: QModelIndex, last: QModelIndex) -> None:
        concerned = first.column() <= self.sortColumn() <= last.column() or self._words
        if concerned and not self._resort.isActive():
            self._resort.start()

    @Slot()
    def _on_rows(self) -> None:
        """New rows stand at the end until they are put in order, which happens once for all that come together."""
        if self.sortColumn() >= 0 or self._words:
            QTimer.singleShot(0, self, self.refresh)
