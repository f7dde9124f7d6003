"""A problem said where it arose: what is wrong, why, what to do about it."""

from __future__ import annotations

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QLabel, QSizePolicy, QWidget

from app.errors import ShardboardError
from app.ui import make
from app.ui.icons import icon
from app.ui.theme import SPACING, ThemeKeeper

TITLES = {
    "refused": "Connection refused",
    "timeout": "No answer",
    "wrong_key": "Wrong key",
    "not_allowed": "Not allowed",
    "version": "Another version",
    "bad_input": "This cannot be used",
    "registry": "Not registered",
    "disk": "Not enough disk space",
    "memory": "Not enough memory",
}
"""By an error's kind."""


class ProblemCard(QFrame):
    """Hidden while there is no problem."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._icon = QLabel()
        self._title, self._message, self._advice = make.label("", "heading"), QLabel(), QLabel()
        texts = make.column(spacing=SPACING // 2)
        for label in (self._title, self._message, self._advice):
            label.setWordWrap(True)
            label.setTextFormat(Qt.TextFormat.PlainText)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
            texts.addWidget(label)
        make.row(
            (self._icon, 0, Qt.AlignmentFlag.AlignTop), (texts, 1), within=self,
            margins=(2 * SPACING, SPACING + SPACING // 2, 2 * SPACING, SPACING + SPACING // 2),
            spacing=SPACING + SPACING // 2,
        )  # fmt: skip
        self.kind = ""
        self.hide()

    @property
    def text(self) -> str:
        """All that it says."""
        return "\n".join(label.text() for label in (self._title, self._message, self._advice) if label.text())

    def show_error(self, error: ShardboardError) -> None:
        self.kind = error.kind
        side = self.fontMetrics().height()
        self._icon.setPixmap(icon("circle-alert", self._theme.colors.error).pixmap(side, side))
        self._title.setText(TITLES.get(error.kind, "It did not work"))
        self._message.setText(error.message)
        self._advice.setText(error.advice)
        self._advice.setVisible(bool(error.advice))
        self.setAccessibleName(self.text)
        self.show()

    def clear(self) -> None:
        self.kind = ""
        self.hide()

    def paintEvent(self, event: QPaintEvent) -> None:
        colors = self._theme.colors
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.error_soft)
        painter.drawRoundedRect(QRectF(self.rect()), 8, 8)
