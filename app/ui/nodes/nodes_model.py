"""The table of nodes as a model: a mirror of `Cluster.nodes` that changes at most ten times a second."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Slot
from PySide6.QtGui import QFont, QGuiApplication

from app.ui import make
from app.ui.cluster import Cluster
from app.ui.nodes.node_row import NodeColumn, NodeRow, heartbeat_cell, row_of

FLUSH_MILLISECONDS = 100
AGEING_MILLISECONDS = 1000
"""How often the time since the last heartbeat is written anew."""

Index = QModelIndex | QPersistentModelIndex

HEADERS: dict[NodeColumn, tuple[str, str]] = {
    NodeColumn.NAME: ("Name", "The machine's name"),
    NodeColumn.ADDRESS: ("Address", "Where its agent listens"),
    NodeColumn.STATE: ("State", "How the agent is, and why"),
    NodeColumn.HEARTBEAT: ("Heard of", "When the last health beat was answered"),
    NodeColumn.CPU: ("CPU", "Load of all cores"),
    NodeColumn.MEMORY: ("Memory", "What stages take of what they may take"),
    NodeColumn.GPU: ("GPU", "Load of the busiest GPU, and memory of all"),
    NodeColumn.TOKENS: ("Tokens/s", "Tokens per second through this node"),
    NodeColumn.ROUND_TRIP: ("Round trip", "From a health beat's question to its answer"),
    NodeColumn.SHARDS: ("Shards", "The layers it runs"),
}
FIGURES = frozenset({NodeColumn.CPU, NodeColumn.TOKENS, NodeColumn.ROUND_TRIP})
"""Columns of plain figures, set flush right."""
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter


class NodeRole(IntEnum):
    SORT = Qt.ItemDataRole.UserRole + 1
    ROW = Qt.ItemDataRole.UserRole + 2
    """The NodeRow, for delegates."""
    WORDS = Qt.ItemDataRole.UserRole + 3
    """What the filter looks in."""


class NodesModel(QAbstractTableModel):
    """Rows are in the registry's order. Changes are gathered and told per changed row."""

    def __init__(self, cluster: Cluster, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._cluster = cluster
        self._rows: list[NodeRow] = []
        self._places: dict[int, int] = {}
        self._stale: set[int] = set()
        self._flush = make.timer(self, self.flush, FLUSH_MILLISECONDS)
        self._ageing = make.timer(self, self._age, AGEING_MILLISECONDS, once=False)
        self._figures_font = _with_even_figures()
        cluster.nodes_reset.connect(self._on_reset)
        cluster.nodes_changed.connect(self._on_changed)
        cluster.deployments_changed.connect(self._on_deployments)
        self._on_reset()

    def set_live(self, live: bool) -> None:
        """While nobody looks, time since the last heartbeat need not be kept up to date."""
        if live:
            self._age()
            self._ageing.start()
        else:
            self._ageing.stop()

    # --- what views ask ---

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own default
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(NodeColumn)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row = self._rows[index.row()]
        cell = row.cells[index.column()]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return cell.text
            case NodeRole.SORT:
                return cell.sort
            case NodeRole.ROW:
                return row
            case NodeRole.WORDS:
                return row.words
            case Qt.ItemDataRole.ToolTipRole:
                return cell.tip or None
            case Qt.ItemDataRole.TextAlignmentRole:
                return _RIGHT if index.column() in FIGURES else _LEFT
            case Qt.ItemDataRole.FontRole:
                return self._figures_font if NodeColumn.HEARTBEAT <= index.column() < NodeColumn.SHARDS else None
            case Qt.ItemDataRole.AccessibleTextRole:
                title = HEADERS[NodeColumn(index.column())][0]
                return f"{title}: {cell.text} {row.reason if index.column() == NodeColumn.STATE else ''}".rstrip()
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation is not Qt.Orientation.Horizontal or not 0 <= section < len(NodeColumn):
            return None
        title, tip = HEADERS[NodeColumn(section)]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return title
            case Qt.ItemDataRole.ToolTipRole:
                return tip
            case Qt.ItemDataRole.TextAlignmentRole:
                return _RIGHT if section in FIGURES else _LEFT
        return None

    def node_at(self, row: int) -> int:
        """The id of the node in a row."""
        return self._rows[row].id

    def place_of(self, node: int) -> int | None:
        """The row of a node."""
        return self._places.get(node)

    # --- what the cluster tells ---

    @Slot()
    def _on_reset(self) -> None:
        """Take rows out and put rows in one by one where the order allows it, so that a selection stays."""
        wanted = list(self._cluster.nodes)
        known = set(self._places)
        if [row.id for row in self._rows if row.id in self._cluster.nodes] != [id for id in wanted if id in known]:
            self.beginResetModel()
            self._rows = [self._row(id) for id in wanted]
            self._number()
            self.endResetModel()
            return
        for place in reversed(range(len(self._rows))):
            if self._rows[place].id not in self._cluster.nodes:
                self.beginRemoveRows(QModelIndex(), place, place)
                del self._rows[place]
                self.endRemoveRows()
        for place, id in enumerate(wanted):
            if place >= len(self._rows) or self._rows[place].id != id:
                self.beginInsertRows(QModelIndex(), place, place)
                self._rows.insert(place, self._row(id))
                self.endInsertRows()
        self._number()
        self._on_changed(frozenset(wanted))

    @Slot(object)
    def _on_changed(self, ids: frozenset[int]) -> None:
        self._stale |= ids
        if self._stale and not self._flush.isActive():
            self._flush.start()

    @Slot()
    def _on_deployments(self) -> None:
        self._on_changed(frozenset(self._places))

    @Slot()
    def flush(self) -> None:
        """Show what has changed since the last time."""
        stale, self._stale = self._stale, set()
        for id in stale:
            place = self._places.get(id)
            if place is not None and id in self._cluster.nodes:
                self._put(place, self._row(id))

    @Slot()
    def _age(self) -> None:
        now = datetime.now(UTC)
        for place, row in enumerate(self._rows):
            cell = heartbeat_cell(row.heartbeat, now)
            if cell.text != row.cells[NodeColumn.HEARTBEAT].text:
                cells = (*row.cells[: NodeColumn.HEARTBEAT], cell, *row.cells[NodeColumn.HEARTBEAT + 1 :])
                self._put(place, replace(row, cells=cells))

    # --- within ---

    def _row(self, id: int) -> NodeRow:
        history = self._cluster.history(id)
        return row_of(self._cluster.nodes[id], self._cluster.deployments, history[-1] if history else None)

    def _put(self, place: int, row: NodeRow) -> None:
        """Replace a row and tell of the columns that look different now; a beat alone shows nothing new."""
        before = self._rows[place]
        if row == before:
            return
        self._rows[place] = row
        changed = [column for column in NodeColumn if row.cells[column].text != before.cells[column].text]
        if row.reason != before.reason and NodeColumn.STATE not in changed:
            changed.append(NodeColumn.STATE)
        if changed:
            self.dataChanged.emit(self.index(place, min(changed)), self.index(place, max(changed)))

    def _number(self) -> None:
        self._places = {row.id: place for place, row in enumerate(self._rows)}


def _with_even_figures() -> QFont:
    """The application's font with figures of one width, so that they do not dance while they change."""
    font = QFont(QGuiApplication.font())
    font.setFeature(QFont.Tag("tnum"), 1)
    return font
