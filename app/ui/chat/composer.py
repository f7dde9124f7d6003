"""Where the user writes: a box that grows with its text, and one button that sends or stops."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal, Slot
from PySide6.QtGui import QFocusEvent, QKeyEvent, QResizeEvent
from PySide6.QtWidgets import QFrame, QPlainTextEdit, QWidget

from app.ui import make
from app.ui.icons import icon
from app.ui.theme import RADIUS, SPACING, ThemeKeeper

MOST_LINES = 9


class InputBox(QPlainTextEdit):
    """Enter sends, Shift+Enter begins a new line, Escape stops."""

    sent = Signal()
    escaped = Signal()
    focus_changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("chat-input")
        self.setAccessibleName("Message")
        self.setAccessibleDescription("Enter sends, Shift+Enter begins a new line")
        self.setTabChangesFocus(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.document().setDocumentMargin(2)
        self.textChanged.connect(self._fit)
        self._fit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if enter and not event.modifiers() & (Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.AltModifier):
            self.sent.emit()
        elif event.key() == Qt.Key.Key_Escape:
            self.escaped.emit()
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.focus_changed.emit()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.focus_changed.emit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    @Slot()
    def _fit(self) -> None:
        """As high as its text, up to some lines; then it scrolls."""
        lines = max(1, round(self.document().size().height()))  # a plain text document measures in lines
        shown = min(lines, MOST_LINES)
        height = shown * self.fontMetrics().lineSpacing() + 2 * 2 + 4
        if height != self.height() or self.minimumHeight() != height:
            self.setFixedHeight(height)
        wanted = Qt.ScrollBarPolicy.ScrollBarAsNeeded if lines > MOST_LINES else Qt.ScrollBarPolicy.ScrollBarAlwaysOff
        if self.verticalScrollBarPolicy() != wanted:
            self.setVerticalScrollBarPolicy(wanted)


class Composer(QFrame):
    """The input with its button, and a line that says what would be replaced while a question is edited."""

    sent = Signal(str)
    """The text to send; the box is empty then."""
    stop_wanted = Signal()
    edit_cancelled = Signal()

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._streaming = self._editing = False
        self._can_send = True
        self._editing_label = make.label(
            "Editing your last question. Sending replaces it and its answer; Esc leaves it.",
            "muted",
            wraps=True,
            hidden=True,
        )
        outer = make.column(
            self._editing_label, within=self, margins=(SPACING + 4, SPACING, SPACING, SPACING), spacing=SPACING // 2
        )
        self.input = InputBox()
        self.input.setStyleSheet("QPlainTextEdit { border: none; background: transparent; padding: 0; }")
        self.button = make.button(key="chat-send")
        self.button.setIconSize(QSize(18, 18))
        row = make.row((self.input, 1, Qt.AlignmentFlag.AlignVCenter), (self.button, 0, Qt.AlignmentFlag.AlignBottom))
        outer.addLayout(row)
        self.input.sent.connect(self._on_sent)
        self.input.escaped.connect(self._on_escaped)
        self.input.textChanged.connect(self._show_button)
        self.input.focus_changed.connect(self._paint_frame)
        self.button.clicked.connect(self._on_clicked)
        theme.changed.connect(self._paint_frame)
        theme.changed.connect(self._show_button)
        self._paint_frame()
        self._show_button()

    @property
    def is_editing(self) -> bool:
        return self._editing

    def set_streaming(self, streaming: bool) -> None:
        self._streaming = streaming
        self._show_button()

    def set_can_send(self, can_send: bool) -> None:
        """Whether there is somebody to send to."""
        self._can_send = can_send
        self._show_button()

    def set_placeholder(self, text: str) -> None:
        self.input.setPlaceholderText(text)

    def edit(self, text: str) -> None:
        """Have the last question written again."""
        self._set_editing(True)
        self.input.setPlainText(text)
        self.input.moveCursor(self.input.textCursor().MoveOperation.End)
        self.input.setFocus()

    def end_edit(self) -> None:
        if self._editing:
            self._set_editing(False)
            self.input.clear()

    def _set_editing(self, editing: bool) -> None:
        self._editing = editing
        self._editing_label.setVisible(editing)

    @Slot()
    def _on_sent(self) -> None:
        text = self.input.toPlainText()
        if self._streaming or not self._can_send or not text.strip():
            return
        self.sent.emit(text)

    def accept(self) -> None:
        """What was sent has been taken."""
        self._set_editing(False)
        self.input.clear()

    @Slot()
    def _on_escaped(self) -> None:
        if self._streaming:
            self.stop_wanted.emit()
        elif self._editing:
            self.end_edit()
            self.edit_cancelled.emit()

    @Slot()
    def _on_clicked(self) -> None:
        if self._streaming:
            self.stop_wanted.emit()
        else:
            self._on_sent()
        self.input.setFocus()

    @Slot()
    def _show_button(self) -> None:
        colors = self._theme.colors
        enabled = self._streaming or (self._can_send and bool(self.input.toPlainText().strip()))
        self.button.setEnabled(enabled)
        if self._streaming:
            self.button.setIcon(icon("circle-stop"))
            self.button.setText("Stop")
            self.button.setToolTip("Stop the answer (Esc)")
        else:
            self.button.setIcon(icon("send", colors.on_accent if enabled else colors.muted))
            self.button.setText("Send")
            self.button.setToolTip("Send (Enter); Shift+Enter begins a new line")
        role = "" if self._streaming else "primary"
        make.change_role(self.button, role)

    @Slot()
    def _paint_frame(self) -> None:
        colors = self._theme.colors
        border = colors.accent if self.input.hasFocus() else colors.border
        self.setStyleSheet(
            f"Composer {{ background: {colors.surface.name()}; border: 1px solid {border.name()};"
            f" border-radius: {RADIUS + 4}px; }}"
        )
