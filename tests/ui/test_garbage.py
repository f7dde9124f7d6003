"""Garbage with Qt objects in it is freed in the GUI thread, whatever the other threads do."""

from __future__ import annotations

import gc
import threading

from PySide6.QtCore import QObject, QTimer
from pytestqt.qtbot import QtBot

from app.ui.garbage import GuiGarbage


class Cycle(QObject):
    """A QObject that only the cyclic collector frees; tells the thread that did."""

    def __init__(self, freed_in: list[int]) -> None:
        super().__init__()
        self._itself = self
        self._freed_in = freed_in
        self.timer = QTimer(self)
        self.timer.start(1)

    def __del__(self) -> None:
        self._freed_in.append(threading.get_ident())


def allocate(kept: list[object]) -> None:
    """Enough tracked objects for the automatic collector to run many times over."""
    kept.extend([number] for number in range(200_000))


def test_another_thread_never_frees_what_belongs_to_qt(qtbot: QtBot, gui_garbage: GuiGarbage) -> None:
    freed_in: list[int] = []
    for _ in range(20):
        Cycle(freed_in)
    kept: list[object] = []
    worker = threading.Thread(target=allocate, args=(kept,))
    worker.start()
    worker.join()
    assert freed_in == []
    qtbot.waitUntil(lambda: len(freed_in) == 20, timeout=5_000)
    assert set(freed_in) == {threading.get_ident()}


def test_python_collects_by_itself_again_after_it_was_closed(qtbot: QtBot, gui_garbage: GuiGarbage) -> None:
    garbage = GuiGarbage()
    assert not gc.isenabled()
    garbage.close()
    try:
        assert gc.isenabled()
    finally:
        gc.disable()  # the one of these tests goes on
