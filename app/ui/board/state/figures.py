"""When the board takes over what nodes report: a few times a second, and only while somebody sees it."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject

from app.ui import make

FIGURES_MILLISECONDS = 200


class NodeFigures(QObject):
    """Has `refresh` called some time after `have_changed`, once for all that came meanwhile."""

    def __init__(self, refresh: Callable[[], None], parent: QObject) -> None:
        super().__init__(parent)
        self._refresh = refresh
        self._timer = make.timer(self, refresh, FIGURES_MILLISECONDS)
        self._live, self._due = True, False

    def have_changed(self) -> None:
        if not self._live:
            self._due = True
        elif not self._timer.isActive():
            self._timer.start()

    def set_live(self, live: bool) -> None:
        """While nobody looks nothing is taken over: with a thousand nodes that would take a tenth of a core."""
        self._live = live
        if live and self._due:
            self._due = False
            self._refresh()
        elif not live and self._timer.isActive():
            self._timer.stop()
            self._due = True
