"""The table of nodes as a model: a mirror of `Cluster.nodes` that changes at most ten times a second."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from PySide6.QtCore import QModelIndex, QObject, Qt, Slot
from PySide6.QtGui import QFont, QGuiApplication

from app.cluster.ghosts import Ghost
from app.figures import ago
from app.ui import make
from app.ui.cluster import Cluster
from app.ui.list_delegate import Index
from app.ui.nodes.node_row import NodeColumn, NodeRow, row_of
from app.ui.tables import Column, Role, RowsModel

FLUSH_MILLISECONDS = 100
SLICE_SECONDS = 0.008
"""So long at once rows are made."""
AGAIN_MILLISECONDS = 10
AGEING_MILLISECONDS = 1000
"""How often the time since the last heartbeat is written anew."""


def _column(place: NodeColumn, title: str, tip: str, is_figure: bool = False) -> Column:
    """A column of NodeRows; plain figures are set flush right."""
    return Column(
        title, lambda row: row.cells[place].text, "", is_figure, lambda row: row.cells[place].tip or None, tip
    )


COLUMNS = (
    _column(NodeColumn.NAME, "Name", "The machine's name"),
    _column(NodeColumn.ADDRESS, "Address", "Where its agent listens"),
    _column(NodeColumn.STATE, "State", "How the agent is, and why"),
    _column(NodeColumn.HEARTBEAT, "Heard of", "When the last health beat was answered"),
    _column(NodeColumn.CPU, "CPU", "Load of all cores", True),
    _column(NodeColumn.MEMORY, "Memory", "What stages take of what they may take"),
    _column(NodeColumn.GPU, "GPU", "Load of the busiest GPU, and memory of all"),
    _column(NodeColumn.TOKENS, "Tokens/s", "Tokens per second through this node", True),
    _column(NodeColumn.ROUND_TRIP, "Round trip", "From a health beat's question to its answer", True),
    _column(NodeColumn.SHARDS, "Shards", "The layers it runs"),
)


class NodeRole(IntEnum):
    SORT = Qt.ItemDataRole.UserRole + 1
    ROW = Qt.ItemDataRole.UserRole + 2
    """The NodeRow, for delegates."""
    WORDS = Qt.ItemDataRole.UserRole + 3
    """What the filter looks in."""


class NodesModel(RowsModel):
    """Rows are in the registry's order. Changes are gathered and told per changed row."""

    def __init__(self, cluster: Cluster, parent: QObject | None = None) -> None:
        super().__init__(COLUMNS, parent)
        self._cluster = cluster
        self._places: dict[int, int] = {}
        self._stale: dict[int, None] = {}
        """Nodes whose rows are to be made anew, who has waited longest first."""
        self._ghosts: dict[int, Ghost] = {}
        self._live = True
        self._flush = make.timer(self, self._some, FLUSH_MILLISECONDS)
        self._ageing = make.timer(self, self._age, AGEING_MILLISECONDS, once=False)
        self._figures_font = _with_even_figures()
        cluster.nodes_reset.connect(self._on_reset)
        cluster.nodes_changed.connect(self._on_changed)
        cluster.deployments_changed.connect(self._on_deployments)
        self._on_reset()

    def set_live(self, live: bool) -> None:
        """While nobody looks no row is made anew; what has changed meanwhile is shown soon after."""
        self._live = live
        if live:
            self._age()
            self._on_changed(frozenset())
            self._ageing.start()
        else:
            self._ageing.stop()
            self._flush.stop()

    # --- what views ask ---

    def data(self, index: Index, role: int = Role.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row = self.rows[index.row()]
        match role:
            case NodeRole.SORT:
                return row.cells[index.column()].sort
            case NodeRole.ROW:
                return row
            case NodeRole.WORDS:
                return row.words
            case Role.FontRole:
                return self._figures_font if NodeColumn.HEARTBEAT <= index.column() < NodeColumn.SHARDS else None
            case Role.AccessibleTextRole:
                reason = row.reason if index.column() == NodeColumn.STATE else ""
                return f"{COLUMNS[index.column()].title}: {row.cells[index.column()].text} {reason}".rstrip()
        return super().data(index, role)

    def node_at(self, row: int) -> int:
        """The id of the node in a row."""
        return int(self.rows[row].id)

    def place_of(self, node: int) -> int | None:
        """The row of a node."""
        return self._places.get(node)

    # --- what the cluster tells ---

    @Slot()
    def _on_reset(self) -> None:
        """Take rows out and put rows in one by one where the order allows it, so that a selection stays."""
        wanted = list(self._cluster.nodes)
        known = set(self._places)
        if [row.id for row in self.rows if row.id in self._cluster.nodes] != [id for id in wanted if id in known]:
            self.beginResetModel()
            self.rows = [self._row(id) for id in wanted]
            self._number()
            self.endResetModel()
            return
        for place in reversed(range(len(self.rows))):
            if self.rows[place].id not in self._cluster.nodes:
                self.beginRemoveRows(QModelIndex(), place, place)
                del self.rows[place]
                self.endRemoveRows()
        for place, id in enumerate(wanted):
            if place >= len(self.rows) or self.rows[place].id != id:
                self.beginInsertRows(QModelIndex(), place, place)
                self.rows.insert(place, self._row(id))
                self.endInsertRows()
        self._number()
        self._on_changed(frozenset(wanted))

    @Slot(object)
    def _on_changed(self, ids: frozenset[int]) -> None:
        self._stale |= dict.fromkeys(ids)
        if self._live and self._stale and not self._flush.isActive():
            self._flush.start(FLUSH_MILLISECONDS)

    @Slot()
    def _on_deployments(self) -> None:
        self._on_changed(frozenset(self._places))

    @Slot()
    def flush(self) -> None:
        """Show what has changed since the last time."""
        self._judge_ghosts()
        while self._stale:
            self._show_next()

    @Slot()
    def _some(self) -> None:
        """The same, as far as it goes without holding up the window: of a thousand nodes the rest comes in a moment."""
        until = time.perf_counter() + SLICE_SECONDS
        self._judge_ghosts()
        while self._stale and time.perf_counter() < until:
            self._show_next()
        if self._stale:
            self._flush.start(AGAIN_MILLISECONDS)

    def _judge_ghosts(self) -> None:
        """Another node's coming or time alone makes a ghost."""
        before, self._ghosts = self._ghosts, self._cluster.ghosts()
        if before != self._ghosts:
            self._stale |= dict.fromkeys((*before, *self._ghosts))

    def _show_next(self) -> None:
        id = next(iter(self._stale))
        del self._stale[id]
        place = self._places.get(id)
        if place is not None and id in self._cluster.nodes:
            self._put(place, self._row(id))

    @Slot()
    def _age(self) -> None:
        """Rows in which the time since the last heartbeat reads differently now; of a thousand a few at once."""
        now = datetime.now(UTC)
        texts = ((row.id, ago(row.heartbeat, now), row.cells[NodeColumn.HEARTBEAT].text) for row in self.rows)
        self._on_changed(frozenset(id for id, text, shown in texts if text != shown))

    # --- within ---

    def _row(self, id: int) -> NodeRow:
        history = self._cluster.history(id)
        latest = history[-1] if history else None
        return row_of(self._cluster.nodes[id], self._cluster.deployments, latest, ghost=self._ghosts.get(id))

    def _put(self, place: int, row: NodeRow) -> None:
        """Replace a row and tell of the columns that look different now; a beat alone shows nothing new."""
        before = self.rows[place]
        if row == before:
            return
        self.rows[place] = row
        changed = [column for column in NodeColumn if row.cells[column].text != before.cells[column].text]
        if row.reason != before.reason and NodeColumn.STATE not in changed:
            changed.append(NodeColumn.STATE)
        if changed:
            self.dataChanged.emit(self.index(place, min(changed)), self.index(place, max(changed)))

    def _number(self) -> None:
        self._places = {row.id: place for place, row in enumerate(self.rows)}


def _with_even_figures() -> QFont:
    """The application's font with figures of one width, so that they do not dance while they change."""
    font = QFont(QGuiApplication.font())
    font.setFeature(QFont.Tag("tnum"), 1)
    return font
