"""All that is known of an error: what, why, what to do, and details to copy."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QHBoxLayout, QLabel, QWidget

from app.errors import ShardboardError
from app.ui import make
from app.ui.icons import icon
from app.ui.looks import NOTICES, LookIcon
from app.ui.notices import Level, Notice, details_of
from app.ui.theme import SPACING, ThemeKeeper


class ErrorDialog(QDialog):
    """Shows one notice with its details."""

    def __init__(self, notice: Notice, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._notice = notice
        self._theme = theme
        what, _, why = notice.text.partition(": ")
        self.setWindowTitle("Details")
        self.setObjectName("error-dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._icon = LookIcon(self)
        title = self._label(what if why else notice.text, "title")
        head = make.row(self._icon, (title, 1), spacing=SPACING + 4)
        column = make.column(head, SPACING, within=self, margins=make.DIALOG)
        if why:
            column.addWidget(self._label("What happened", "muted"))
            column.addWidget(self._label(why))
            column.addSpacing(SPACING)
        if notice.advice:
            column.addWidget(self._label("What to do", "muted"))
            column.addWidget(self._label(notice.advice))
            column.addSpacing(SPACING)
        column.addWidget(self._label("Details", "muted"))
        self.details = make.reading("Details", self, wraps=False)
        self.details.setPlainText(notice.details or notice.text)
        column.addWidget(self.details, 1)
        column.addSpacing(SPACING)
        column.addLayout(self._buttons())
        em = self.fontMetrics().averageCharWidth()
        self.resize(em * 90, self.fontMetrics().lineSpacing() * 26)
        self._apply_theme()
        theme.changed.connect(self._apply_theme)

    @classmethod
    def of_error(
        cls, what: str, error: ShardboardError, theme: ThemeKeeper, parent: QWidget | None = None
    ) -> ErrorDialog:
        """For an error that is shown in place, without a banner."""
        text = f"{what}: {error.message}"
        return cls(Notice(0, Level.ERROR, text, error.advice, details_of(what, error)), theme, parent)

    def _label(self, text: str, role: str = "") -> QLabel:
        return make.label(text, role, self, wraps=True, is_plain=True, selectable=True)

    def _buttons(self) -> QHBoxLayout:
        self.copy_button = make.button(
            "Copy", self.copy, self, picture="copy", tip="Copy everything that is written here"
        )
        close = make.button("Close", self.accept, self, by_return=True)
        row = make.row(self.copy_button, make.STRETCH, close, spacing=None)
        close.setFocus()
        return row

    @Slot()
    def copy(self) -> None:
        """Everything, as text for a letter to somebody who can help."""
        QGuiApplication.clipboard().setText(
            self._notice.details or f"{self._notice.text}\n{self._notice.advice}".strip()
        )
        self.copy_button.setText("Copied")
        self.copy_button.setIcon(icon("check"))

    @Slot()
    def _apply_theme(self) -> None:
        self._icon.show_look(NOTICES[self._notice.level], self._theme.colors)
