"""Names and values in two columns, to be read and copied; values change in place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QLabel, QSizePolicy, QWidget

from app.ui.theme import SPACING

Fact = tuple[str, str]


class Facts(QWidget):
    """See the module. Labels are kept while their number stays, so that a second's news costs little."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(2 * SPACING)
        self._grid.setVerticalSpacing(6)
        self._grid.setColumnStretch(1, 1)
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
            if value.property("role") != role:
                value.setProperty("role", role)
                value.style().unpolish(value)
                value.style().polish(value)

    def value(self, name: str) -> str:
        """What is shown beside a name. Raises KeyError when it is not shown."""
        for label, value in self._labels:
            if label.text() == name and label.text():
                return value.text()
        raise KeyError(name)

    def _add(self) -> None:
        name, value = QLabel(), QLabel()
        name.setProperty("role", "muted")
        name.setAlignment(Qt.AlignmentFlag.AlignTop)
        value.setWordWrap(True)
        value.setTextFormat(Qt.TextFormat.PlainText)
        value.setAlignment(Qt.AlignmentFlag.AlignTop)
        value.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        value.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        row = len(self._labels)
        self._grid.addWidget(name, row, 0)
        self._grid.addWidget(value, row, 1)
        self._labels.append((name, value))
