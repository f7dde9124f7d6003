"""The table of nodes: widths that stay, several rows to select, a menu on each."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QItemSelection, QItemSelectionModel, QPoint, Qt, Signal, Slot
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QWidget

from app.ui.icons import RESOURCES
from app.ui.nodes.node_delegates import MemoryDelegate, StateDelegate
from app.ui.nodes.node_row import NodeColumn
from app.ui.nodes.nodes_model import NodesModel
from app.ui.nodes.nodes_proxy import NodesProxy
from app.ui.tables import Table
from app.ui.theme import ThemeKeeper

_WIDTHS = {
    NodeColumn.NAME: 19,
    NodeColumn.ADDRESS: 18,
    NodeColumn.STATE: 26,
    NodeColumn.HEARTBEAT: 10,
    NodeColumn.CPU: 7,
    NodeColumn.MEMORY: 23,
    NodeColumn.GPU: 20,
    NodeColumn.TOKENS: 10,
    NodeColumn.ROUND_TRIP: 12,
    NodeColumn.SHARDS: 14,
}
"""In average letters, so that they grow with the font."""
_ARROWS = "".join(
    f'QHeaderView::{name}-arrow {{ subcontrol-position: top center; image: url("{(RESOURCES / "theme").as_posix()}/'
    f'{name}.svg"); width: 10px; height: 10px; }}'
    for name in ("up", "down")
)


class NodesTable(Table):
    """Shows a NodesModel through a NodesProxy."""

    selection_changed = Signal()
    menu_wanted = Signal(QPoint)
    """In global coordinates."""

    def __init__(self, model: NodesModel, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        proxy = NodesProxy(model)
        super().__init__(proxy, theme, "Nodes", key="nodes-table", parent=parent)
        proxy.setParent(self)
        self.nodes, self.proxy = model, proxy
        self.setItemDelegateForColumn(NodeColumn.STATE, StateDelegate(theme, self))
        self.setItemDelegateForColumn(NodeColumn.MEMORY, MemoryDelegate(theme, self))
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.customContextMenuRequested.connect(self._on_menu)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setStretchLastSection(True)
        # At the right, where the style draws it, the arrow would lie on the titles that are set flush right.
        header.setStyleSheet(_ARROWS)
        header.setSectionsMovable(True)
        self.setSortingEnabled(True)
        self.sortByColumn(NodeColumn.NAME, Qt.SortOrder.AscendingOrder)
        self._measure()
        self.selectionModel().selectionChanged.connect(self._on_selection)

    @property
    def selected(self) -> tuple[int, ...]:
        """The ids of the selected nodes, from top to bottom."""
        rows = sorted(index.row() for index in self.selectionModel().selectedRows())
        return tuple(self.nodes.node_at(self.proxy.mapToSource(self.proxy.index(row, 0)).row()) for row in rows)

    @property
    def shown(self) -> tuple[int, ...]:
        """The ids of all rows, from top to bottom."""
        return tuple(
            self.nodes.node_at(self.proxy.mapToSource(self.proxy.index(row, 0)).row())
            for row in range(self.proxy.rowCount())
        )

    def select(self, nodes: tuple[int, ...]) -> None:
        """Select these nodes and no others, and scroll to the first."""
        selection = QItemSelection()
        first = None
        for node in nodes:
            place = self.nodes.place_of(node)
            index = self.proxy.mapFromSource(self.nodes.index(place, 0)) if place is not None else None
            if index is not None and index.isValid():
                selection.select(index, index)
                first = first or index
        if first is None:
            return
        flags = QItemSelectionModel.SelectionFlag
        self.setCurrentIndex(first)
        self.selectionModel().select(selection, flags.ClearAndSelect | flags.Rows)
        self.scrollTo(first)

    def widths(self) -> list[int]:
        return [self.horizontalHeader().sectionSize(column) for column in NodeColumn if column != NodeColumn.GPU]

    def set_widths(self, widths: list[int]) -> None:
        for column, width in zip((column for column in NodeColumn if column != NodeColumn.GPU), widths, strict=False):
            self.setColumnWidth(column, max(24, int(width)))

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() is QEvent.Type.FontChange:
            self._measure()

    def _measure(self) -> None:
        letter = self.fontMetrics().averageCharWidth()
        for column, letters in _WIDTHS.items():
            self.setColumnWidth(column, letters * letter)
        self.verticalHeader().setDefaultSectionSize(round(self.fontMetrics().height() * 2.1))

    @Slot(QPoint)
    def _on_menu(self, at: QPoint) -> None:
        self.menu_wanted.emit(self.viewport().mapToGlobal(at))

    @Slot()
    def _on_selection(self) -> None:
        self.selection_changed.emit()
