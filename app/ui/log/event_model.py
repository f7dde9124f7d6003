"""The events of controller and agents as a table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Qt, Slot

from app.figures import clock, short
from app.registry import EventLevel, EventRecord
from app.ui.icons import icon
from app.ui.paging.listing import NumberedListing
from app.ui.paging.paged_model import PagedModel
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.registry import Registry

Role = Qt.ItemDataRole

LEVEL_LOOKS = {
    EventLevel.DEBUG: ("dot", "Debug", "muted"),
    EventLevel.INFO: ("info", "Info", "accent"),
    EventLevel.WARNING: ("triangle-alert", "Warning", "warning"),
    EventLevel.ERROR: ("circle-alert", "Error", "error"),
}
"""Icon, word and colour of each level."""


@dataclass(frozen=True)
class EventListing(NumberedListing):
    """Events of a level or worse, of a source, a node, with a text."""

    text: str = ""
    at_least: EventLevel = EventLevel.DEBUG
    source: str | None = None
    node_id: int | None = None

    @property
    def noun(self) -> str:
        return "event"

    @property
    def is_narrow(self) -> bool:
        return self != EventListing()

    def table(self, registry: Registry) -> Any:
        return registry.events

    def query(self) -> dict[str, Any]:
        return {"text": self.text, "at_least": self.at_least, "source": self.source, "node_id": self.node_id}


class EventColumn(IntEnum):
    LEVEL = 0
    TIME = 1
    SOURCE = 2
    NODE = 3
    MESSAGE = 4


class EventModel(PagedModel):
    """Events, newest first."""

    headers = ("Level", "Time", "Source", "Node", "Message")

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(workbench.bridge, parent)
        self._theme = workbench.theme
        self._cluster = workbench.cluster
        workbench.theme.changed.connect(self._repaint)
        workbench.cluster.nodes_reset.connect(self._repaint)

    def node_name(self, id: int | None) -> str:
        """A node that is gone is known by its number only."""
        if id is None:
            return ""
        view = self._cluster.nodes.get(id)
        return view.name if view is not None else f"node {id}"

    def cell(self, record: EventRecord, column: int, role: int) -> Any:
        if role == Role.DisplayRole or role == Role.AccessibleTextRole:
            return self._text(record, column)
        if role == Role.DecorationRole and column == EventColumn.LEVEL:
            name, _, color = LEVEL_LOOKS[record.level]
            return icon(name, getattr(self._theme.colors, color))
        if role == Role.ForegroundRole:
            if column == EventColumn.LEVEL:
                return getattr(self._theme.colors, LEVEL_LOOKS[record.level][2])
            if column != EventColumn.MESSAGE or record.level is EventLevel.DEBUG:
                return self._theme.colors.muted
        if role == Role.ToolTipRole and column == EventColumn.MESSAGE:
            return short(record.message, 600)
        return None

    def _text(self, record: EventRecord, column: int) -> str:
        match column:
            case EventColumn.LEVEL:
                return LEVEL_LOOKS[record.level][1]
            case EventColumn.TIME:
                return clock(record.at)
            case EventColumn.SOURCE:
                return record.source
            case EventColumn.NODE:
                return self.node_name(record.node_id)
        return short(record.message, 400)

    @Slot()
    def _repaint(self) -> None:
        if self.total:
            self.dataChanged.emit(self.index(0, 0), self.index(self.total - 1, self.columnCount() - 1))


def text_line(record: EventRecord, node: str = "") -> str:
    """An event as a line of a log: ISO time, level, source, node, message."""
    where = f" {node}" if node else ""
    message = " | ".join(line.strip() for line in record.message.splitlines() if line.strip())
    return f"{record.at.isoformat()} {record.level.upper():7} {record.source}{where}: {message}"
