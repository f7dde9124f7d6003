"""What this program is, in which version, and whose work it stands on."""

from __future__ import annotations

import platform
import sys

from PySide6 import __version__ as pyside_version
from PySide6.QtCore import Qt, Slot, qVersion
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QFrame, QHBoxLayout, QLabel, QVBoxLayout, QWidget

import worker_agent
from app.ui import make
from app.ui.icons import icon, mark
from app.ui.theme import SPACING

LICENCES = (
    ("Shardboard", "Apache License 2.0"),
    ("Qt for Python", "GNU LGPL 3"),
    ("Inter, JetBrains Mono", "SIL Open Font License 1.1"),
    ("Lucide icons", "ISC License"),
)


def versions() -> tuple[tuple[str, str], ...]:
    """What somebody who helps wants to know first."""
    return (
        ("Shardboard", worker_agent.__version__),
        ("Python", platform.python_version()),
        ("Qt", str(qVersion())),
        ("PySide6", pyside_version),
        ("System", f"{platform.system()} {platform.release()}, {platform.machine()}"),
    )


class AboutDialog(QDialog):
    """Name, versions, licences."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("About Shardboard")
        self.setObjectName("about")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        column = make.column(
            self._head(), self._table("Versions", versions(), selectable=True), self._table("Licences", LICENCES),
            self._buttons(), within=self, margins=make.DIALOG,
            spacing=2 * SPACING,
        )  # fmt: skip
        column.setSizeConstraint(QVBoxLayout.SizeConstraint.SetFixedSize)

    def _head(self) -> QHBoxLayout:
        emblem = QLabel(self)
        emblem.setPixmap(mark("boxes", self.palette().accent().color(), 40, self.devicePixelRatioF()))
        name = make.label("Shardboard", "title", self)
        what = make.label(
            "Run a language model that is too big for any one of your machines,\nover all of them.", "muted", self
        )
        words = make.column(name, what, spacing=SPACING // 2)
        return make.row((emblem, 0, Qt.AlignmentFlag.AlignTop), (words, 1), spacing=2 * SPACING)

    def _table(self, title: str, rows: tuple[tuple[str, str], ...], *, selectable: bool = False) -> QFrame:
        card = make.dressed(QFrame(self), "card")
        around = (2 * SPACING, SPACING + 4, 2 * SPACING, SPACING + 4)
        grid = make.grid(within=card, margins=around, across=3 * SPACING, down=SPACING // 2 + 2)
        grid.setColumnMinimumWidth(0, self.fontMetrics().averageCharWidth() * 22)
        heading = make.label(title, "heading", card)
        grid.addWidget(heading, 0, 0, 1, 2)
        for number, (name, value) in enumerate(rows, start=1):
            left = make.label(name, "muted", card)
            grid.addWidget(left, number, 0)
            grid.addWidget(make.label(value, "", card, selectable=selectable), number, 1)
        return card

    def _buttons(self) -> QHBoxLayout:
        self.copy_button = make.button("Copy versions", self.copy, self, picture="copy")
        close = make.button("Close", self.accept, self, by_return=True)
        return make.row(self.copy_button, make.STRETCH, close, spacing=None)

    @Slot()
    def copy(self) -> None:
        """The versions as text, for a report."""
        lines = [f"{name} {value}" for name, value in versions()]
        QGuiApplication.clipboard().setText("\n".join([*lines, f"Interpreter {sys.executable}"]))
        self.copy_button.setText("Copied")
        self.copy_button.setIcon(icon("check"))
