"""The events of controller and agents as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Slot

from app.figures import clock, short
from app.registry import EventLevel, EventRecord
from app.ui.looks import EVENTS
from app.ui.paging.listing import NumberedListing
from app.ui.paging.paged_model import PagedModel
from app.ui.tables import Column, Role
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.registry import Registry


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


LEVEL, MESSAGE = 0, 4
"""Columns."""


class EventModel(PagedModel):
    """Events, newest first."""

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(workbench.bridge, parent)
        self._theme = workbench.theme
        self._cluster = workbench.cluster
        self.columns = (
            Column("Level", lambda event: EVENTS[event.level].word, "Warning____"),
            Column("Time", lambda event: clock(event.at), "2026-12-30 23:59:59"),
            Column("Source", lambda event: event.source, "deployments"),
            Column("Node", lambda event: self.node_name(event.node_id), "a-long-node-name"),
            Column("Message", lambda event: short(event.message, 400), hint=lambda event: short(event.message, 600)),
        )
        workbench.theme.changed.connect(self._repaint)
        workbench.cluster.nodes_reset.connect(self._repaint)

    def node_name(self, id: int | None) -> str:
        """A node that is gone is known by its number only."""
        if id is None:
            return ""
        view = self._cluster.nodes.get(id)
        return view.name if view is not None else f"node {id}"

    def cell(self, record: EventRecord, column: int, role: int) -> Any:
        if role == Role.DecorationRole and column == LEVEL:
            return EVENTS[record.level].drawn(self._theme.colors)
        if role == Role.ForegroundRole:
            if column == LEVEL:
                return EVENTS[record.level].of(self._theme.colors)
            if column != MESSAGE or record.level is EventLevel.DEBUG:
                return self._theme.colors.muted
        return super().cell(record, column, role)

    @Slot()
    def _repaint(self) -> None:
        if self.total:
            self.dataChanged.emit(self.index(0, 0), self.index(self.total - 1, self.columnCount() - 1))


def text_line(record: EventRecord, node: str = "") -> str:
    """An event as a line of a log: ISO time, level, source, node, message."""
    where = f" {node}" if node else ""
    message = " | ".join(line.strip() for line in record.message.splitlines() if line.strip())
    return f"{record.at.isoformat()} {record.level.upper():7} {record.source}{where}: {message}"
