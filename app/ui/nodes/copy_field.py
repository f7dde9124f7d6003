"""A command or a key to be copied: shown in full, with a button that says when it was."""

from __future__ import annotations

import math

from PySide6.QtCore import QEvent, QSize, Qt, Slot
from PySide6.QtGui import QGuiApplication, QResizeEvent, QTextOption
from PySide6.QtWidgets import QFrame, QSizePolicy, QTextEdit, QWidget

from app.ui import make
from app.ui.icons import icon
from app.ui.theme import SPACING, monospace

_SAID_MILLISECONDS = 1500


class CopyField(QFrame):
    """`name` is what it holds, for those who do not see it."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "sunken")
        self._shown = _Shown()
        self._shown.setAccessibleName(name[:1].upper() + name[1:])
        self._button = make.button("Copy", self._on_copy, picture="copy", by_return=False, name=f"Copy {name}")
        self._back = make.timer(self, self._on_back, _SAID_MILLISECONDS)
        make.row(
            (self._shown, 1), (self._button, 0, Qt.AlignmentFlag.AlignTop), within=self,
            margins=(SPACING + SPACING // 2, SPACING, SPACING, SPACING),
        )  # fmt: skip
        self.set_text("")

    @property
    def text(self) -> str:
        return self._shown.toPlainText()

    def set_text(self, text: str) -> None:
        self._shown.setPlainText(text)
        self._shown.fit()
        self._button.setEnabled(bool(text))

    @Slot()
    def _on_copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text)
        self._button.setText("Copied")
        self._button.setIcon(icon("check"))
        self._back.start()

    @Slot()
    def _on_back(self) -> None:
        self._button.setText("Copy")
        self._button.setIcon(icon("copy"))


class _Shown(QTextEdit):
    """As high as its text, which breaks anywhere: a key has no spaces."""

    def __init__(self) -> None:
        super().__init__()
        self.setReadOnly(True)
        self.setAcceptRichText(False)
        self.setFont(monospace())
        self.setTabChangesFocus(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setStyleSheet("QTextEdit { background: transparent; border: none; padding: 0; }")
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.document().setDocumentMargin(SPACING // 2)

    def fit(self) -> None:
        document = self.document()
        document.setTextWidth(self.viewport().width())
        self.setFixedHeight(max(math.ceil(document.size().height()), self.fontMetrics().height() + SPACING))

    def sizeHint(self) -> QSize:
        return QSize(self.fontMetrics().averageCharWidth() * 40, self.height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self.fit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() is QEvent.Type.FontChange:
            self.fit()
