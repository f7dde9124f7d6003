"""Choosing a folder or a file that is there, without holding up the window."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QWidget

GGUF_FILES = ("GGUF models (*.gguf)", "All files (*)")


def choose_folder(parent: QWidget, title: str, chosen: Callable[[str], object], start: str = "") -> None:
    """`chosen` is called with its path, unless the user cancels; the dialog shows `start` at first."""
    dialog = QFileDialog(parent, title, start)
    dialog.setFileMode(QFileDialog.FileMode.Directory)
    dialog.setOption(QFileDialog.Option.ShowDirsOnly)
    _open(dialog, chosen)


def choose_file(parent: QWidget, title: str, chosen: Callable[[str], object], kinds: tuple[str, ...]) -> None:
    """`chosen` is called with its path, unless the user cancels; `kinds` are Qt's name filters."""
    dialog = QFileDialog(parent, title)
    dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
    dialog.setNameFilters(list(kinds))
    _open(dialog, chosen)


def _open(dialog: QFileDialog, chosen: Callable[[str], object]) -> None:
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.fileSelected.connect(chosen)
    dialog.open()
