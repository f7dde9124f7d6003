"""All shortcuts, grouped by where they work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from app.ui import make
from app.ui.theme import SPACING


@dataclass(frozen=True)
class ShortcutEntry:
    """One shortcut; `keys` as people read them: Ctrl+Z."""

    group: str
    text: str
    keys: str


class ShortcutsDialog(QDialog):
    """A card for each group, in two columns, and a field to find one."""

    def __init__(self, entries: Sequence[ShortcutEntry], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Shortcuts")
        self.setObjectName("shortcuts")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._entries = tuple(entry for entry in entries if entry.keys)
        self.search = make.field("Find a shortcut", "Find a shortcut", self, searches=True)
        self.search.textChanged.connect(self._show)
        self._area = QScrollArea(self)
        self._area.setWidgetResizable(True)
        self._area.setFrameShape(QFrame.Shape.NoFrame)
        self._area.setAccessibleName("Shortcuts")
        close = make.button("Close", self.accept, self, by_return=True)
        foot = make.row(make.STRETCH, close, spacing=None)
        make.column(
            self.search, (self._area, 1), foot, within=self,
            margins=make.DIALOG, spacing=2 * SPACING,
        )  # fmt: skip
        em = self.fontMetrics()
        self.resize(em.averageCharWidth() * 116, em.lineSpacing() * 34)
        self._show("")

    @property
    def shown(self) -> tuple[ShortcutEntry, ...]:
        """What the search leaves."""
        words = self.search.text().lower().split()
        return tuple(
            entry
            for entry in self._entries
            if all(word in f"{entry.group} {entry.text} {entry.keys}".lower() for word in words)
        )

    @Slot(str)
    def _show(self, text: str) -> None:
        groups: dict[str, list[ShortcutEntry]] = {}
        for entry in self.shown:
            groups.setdefault(entry.group, []).append(entry)
        inside = QWidget()
        row = make.row(within=inside, margins=(0, 0, SPACING, 0), spacing=2 * SPACING)
        sides: list[tuple[int, QVBoxLayout]] = []
        for _ in range(2):
            side = make.column(spacing=2 * SPACING)
            row.addLayout(side, 1)
            sides.append((0, side))
        for group, entries in groups.items():
            # Into the shorter column, so that both end at about the same height.
            which = 0 if sides[0][0] <= sides[1][0] else 1
            height, side = sides[which]
            side.addWidget(_card(group, entries, inside))
            sides[which] = (height + len(entries) + 2, side)
        if not groups:
            none = make.label("There is no such shortcut.", "muted", inside)
            sides[0][1].addWidget(none)
        for _, side in sides:
            side.addStretch(1)
        self._area.setWidget(inside)


def _card(title: str, entries: Sequence[ShortcutEntry], parent: QWidget) -> QFrame:
    card = make.dressed(QFrame(parent), "card")
    around = (2 * SPACING, SPACING + 4, 2 * SPACING, SPACING + 4)
    grid = make.grid(within=card, margins=around, down=SPACING // 2 + 2, wide=0)
    heading = make.label(title, "heading", card)
    grid.addWidget(heading, 0, 0, 1, 2)
    for number, entry in enumerate(entries, start=1):
        text = make.label(entry.text, "", card, wraps=True)
        grid.addWidget(text, number, 0)
        grid.addLayout(_keys(entry.keys, card), number, 1)
    return card


def _keys(keys: str, parent: QWidget) -> QHBoxLayout:
    row = make.row(make.STRETCH, spacing=SPACING // 2)
    for key in keys.replace("++", "+Plus").split("+"):
        cap = make.dressed(QFrame(parent), "sunken")
        label = QLabel("+" if key == "Plus" else key, cap)
        label.setAlignment(Qt.AlignmentFlag.AlignCenter)
        make.row(label, within=cap, margins=(SPACING, 2, SPACING, 2), spacing=None)
        row.addWidget(cap)
    return row
