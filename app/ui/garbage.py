"""Python's cyclic garbage is collected in the GUI thread and nowhere else.

The collector runs in whichever thread allocates the object that fills a generation. When that is the controller's
loop, it frees widgets and timers there, and Qt then calls a timer whose object is gone. So the window switches the
automatic collector off and asks, from a timer of its own, whether a collection is due.
"""

from __future__ import annotations

import gc

from PySide6.QtCore import QObject, Slot

from app.ui import make

EVERY_MS = 250


class GuiGarbage(QObject):
    """While it lives (until `close`), the only collector of this process. Make it in the GUI thread."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thresholds = gc.get_threshold()
        gc.disable()
        self._timer = make.timer(self, self.collect_due, EVERY_MS, once=False)
        self._timer.start()

    @Slot()
    def collect_due(self) -> None:
        """Collect the oldest generation that is due by Python's own thresholds; free of cost when none is."""
        counts = gc.get_count()
        for generation in (2, 1, 0):
            if counts[generation] > self._thresholds[generation]:
                gc.collect(generation)
                return

    def close(self) -> None:
        """Collect what is left here, then let Python collect by itself again."""
        self._timer.stop()
        gc.collect()
        gc.enable()
