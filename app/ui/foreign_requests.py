"""Requests that others than this window have under way: programs over HTTP, commands. Closing it would end them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal, Slot

from app.ui import make
from app.ui.bridge import Bridge

if TYPE_CHECKING:
    from app.controller import Controller
    from app.ui.bridge import Report

SOON_MILLISECONDS = 200
"""After the registry told of a request, so that many of them are counted once."""
AGAIN_MILLISECONDS = 1000
"""While there are some: the last word of one comes a moment after its record."""


class ForeignRequests(QObject):
    """Counts when the registry tells of requests; an idle window asks nothing."""

    changed = Signal()

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge = bridge
        self._asking = False
        self.http = 0
        self.commands = 0
        self._timer = make.timer(self, self._ask)
        bridge.tables_changed.connect(self._on_tables_changed)

    def under_way(self) -> list[str]:
        """As the question before closing says it."""
        return [
            f"{count:,} {what}request{'' if count == 1 else 's'}{where}"
            for count, what, where in ((self.http, "HTTP ", ""), (self.commands, "", " of commands in a terminal"))
            if count
        ]

    @Slot(object)
    def _on_tables_changed(self, nouns: frozenset[str]) -> None:
        if "request" in nouns and not self._timer.isActive():
            self._timer.start(SOON_MILLISECONDS)

    @Slot()
    def _ask(self) -> None:
        if self._asking or not self._bridge.is_open:
            return
        self._asking = True

        async def work(controller: Controller, report: Report) -> Counter[str]:
            return Counter(str(run.record.origin.get("via", "")) for run in controller.inference.running())

        call = self._bridge.call(work, "counting requests")
        call.done.connect(self._on_counted)
        call.ended.connect(self._on_ended)

    @Slot(object)
    def _on_counted(self, ways: Counter[str]) -> None:
        found = (ways["http"], ways["command"])
        if found != (self.http, self.commands):
            self.http, self.commands = found
            self.changed.emit()

    @Slot()
    def _on_ended(self) -> None:
        self._asking = False
        if self.http or self.commands:
            self._timer.start(AGAIN_MILLISECONDS)
