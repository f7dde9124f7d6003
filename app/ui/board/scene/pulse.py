"""The pulses that run along the arrows while activations pass. No timer runs while nothing passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QElapsedTimer, QObject, QTimer, Slot

from app.ui.board.scene.arrow_item import ArrowItem

FRAME_MILLISECONDS = 33
LINGER_MILLISECONDS = 600
"""Arrows stay lit for so long after the last news."""
PULSES_PER_SECOND = 1.1


class Pulse(QObject):
    """See the module."""

    def __init__(self, arrows: Callable[[], Sequence[ArrowItem]], parent: QObject) -> None:
        super().__init__(parent)
        self.animated = True
        """Else the arrows are only lit."""
        self._arrows = arrows
        self._frames = QTimer(self)
        self._frames.setInterval(FRAME_MILLISECONDS)
        self._frames.timeout.connect(self._on_frame)
        self._end = QTimer(self)
        self._end.setSingleShot(True)
        self._end.setInterval(LINGER_MILLISECONDS)
        self._end.timeout.connect(self.stop)
        self._time = QElapsedTimer()

    @property
    def is_running(self) -> bool:
        """Whether frames are drawn."""
        return self._frames.isActive()

    @property
    def is_lit(self) -> bool:
        return self._end.isActive()

    def beat(self) -> None:
        """Activations passed."""
        if not self._end.isActive():
            self.light()
            self._time.start()
        self._end.start()
        if self.animated and not self._frames.isActive():
            self._frames.start()

    def light(self) -> None:
        """Light the arrows there are now: they may have been made anew."""
        for arrow in self._arrows():
            arrow.set_lit(True)

    @Slot()
    def stop(self) -> None:
        """Nothing passes, or nobody looks."""
        self._frames.stop()
        self._end.stop()
        for arrow in self._arrows():
            arrow.set_lit(False)

    @Slot()
    def _on_frame(self) -> None:
        passed = self._time.elapsed() / 1000 * PULSES_PER_SECOND
        arrows = self._arrows()
        for number, arrow in enumerate(arrows):
            arrow.set_phase((passed - number / max(len(arrows), 1)) % 1.0)
