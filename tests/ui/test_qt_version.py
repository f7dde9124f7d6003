"""A guard for the pin of PySide6: 6.12.0 loses a reference to None on most calls with Python 3.11, and dies of it."""

from __future__ import annotations

import sys

from PySide6.QtCore import QObject
from pytestqt.qtbot import QtBot


def test_calls_into_qt_keep_their_references_to_none(qtbot: QtBot) -> None:
    thing = QObject()
    before = sys.getrefcount(None)
    for _ in range(5_000):
        thing.setObjectName("name")
        thing.parent()
    assert abs(sys.getrefcount(None) - before) < 1_000
