"""A question before something that cannot be taken back, or leads out of the program."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QMessageBox, QWidget


def ask(
    parent: QWidget,
    title: str,
    text: str,
    yes: str,
    proceed: Callable[[], object],
    *,
    more: str = "",
    is_harmless: bool = False,
) -> QMessageBox:
    """Ask without holding up the window; `proceed` is called for the button `yes`. Escape and Enter mean no.

    Args:
        more: a smaller line below the question.
        is_harmless: nothing is lost by it, so the button is no red one.
    """
    box = QMessageBox(QMessageBox.Icon.Question, title, text, QMessageBox.StandardButton.Cancel, parent)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setInformativeText(more)
    role = QMessageBox.ButtonRole.AcceptRole if is_harmless else QMessageBox.ButtonRole.DestructiveRole
    button = box.addButton(yes, role)
    if not is_harmless:
        button.setProperty("role", "danger")
    box.setDefaultButton(QMessageBox.StandardButton.Cancel)
    button.clicked.connect(lambda: proceed())
    box.open()
    return box
