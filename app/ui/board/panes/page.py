"""What the inspector's pages share: a title with a line under it, facts in sections, and buttons."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QLabel, QPushButton, QSizePolicy, QWidget

from app.ui import make
from app.ui.giving_way import ElidedLabel
from app.ui.theme import SPACING

Fact = tuple[str, str]
"""A name and its value."""


class Page(QWidget):
    """A column that is filled from above by its maker."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.title = make.dressed(ElidedLabel(), "title")
        self.subtitle = make.label("", "muted", wraps=True)
        self.column = make.column(self.title, self.subtitle, within=self)
        self._headings: dict[Facts, QLabel] = {}

    def section(self, heading: str) -> Facts:
        """Facts under a heading."""
        label = make.label(heading, "heading")
        facts = Facts()
        self.column.addSpacing(SPACING)
        self.column.addWidget(label)
        self.column.addWidget(facts)
        self._headings[facts] = label
        return facts

    def show_section(self, facts: Facts, shown: bool) -> None:
        """Show a section with its heading, or neither."""
        facts.setVisible(shown)
        self._headings[facts].setVisible(shown)

    def button(self, text: str, run: Callable[[], object]) -> QPushButton:
        made = make.button(text, run)
        self.column.addWidget(made)
        return made

    def commands(self, *actions: tuple[str, QAction]) -> None:
        """Buttons for commands of the screen side by side, each with its short text."""
        row = make.row()
        for text, action in actions:
            row.addWidget(self._command(text, action), 1)
        self.column.addLayout(row)

    def _command(self, text: str, action: QAction) -> QPushButton:
        made = make.button(text, action.trigger, name=action.text())

        def follow() -> None:
            made.setEnabled(action.isEnabled())
            keys = action.shortcut().toString()
            tip = action.statusTip() or action.text()
            made.setToolTip(f"{tip} ({keys})" if keys and action.isEnabled() else tip)

        action.changed.connect(follow)
        follow()
        return made


class Facts(QWidget):
    """Names and values in two columns, to be read and copied.

    Labels are kept while their number stays, so that a second's news costs little.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._grid = make.grid(within=self, down=6)
        self._grid.setColumnMinimumWidth(0, self.fontMetrics().horizontalAdvance("Vocabulary"))
        self._labels: list[tuple[QLabel, QLabel]] = []

    def show_facts(
        self, facts: Sequence[Fact], tips: Mapping[str, str] | None = None, marked: Collection[str] = ()
    ) -> None:
        """Values that are empty are left out.

        Args:
            tips: by name, what a tooltip says of it.
            marked: names of values that deserve attention.
        """
        shown = [fact for fact in facts if fact[1]]
        while len(self._labels) < len(shown):
            self._add()
        for row, (name, value) in enumerate(self._labels):
            fact = shown[row] if row < len(shown) else ("", "")
            name.setVisible(row < len(shown))
            value.setVisible(row < len(shown))
            if name.text() != fact[0]:
                name.setText(fact[0])
                value.setAccessibleName(fact[0])
            if value.text() != fact[1]:
                value.setText(fact[1])
            tip = (tips or {}).get(fact[0], "")
            name.setToolTip(tip)
            value.setToolTip(tip)
            role = "warning" if fact[0] in marked else None
            make.change_role(value, role)

    def value(self, name: str) -> str:
        """What is shown beside a name. Raises KeyError when it is not shown."""
        for label, value in self._labels:
            if label.text() == name and label.text():
                return value.text()
        raise KeyError(name)

    def _add(self) -> None:
        name, value = make.label("", "muted"), make.label(wraps=True, is_plain=True)
        name.setAlignment(Qt.AlignmentFlag.AlignTop)
        value.setAlignment(Qt.AlignmentFlag.AlignTop)
        value.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        value.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        row = len(self._labels)
        self._grid.addWidget(name, row, 0)
        self._grid.addWidget(value, row, 1)
        self._labels.append((name, value))
