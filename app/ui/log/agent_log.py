"""The end of an agent's own log, read over the wire."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QTextCursor
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QLineEdit, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget

from app.errors import ShardboardError
from app.ui.bridge import Call
from app.ui.icons import icon
from app.ui.theme import SPACING, monospace
from app.ui.workbench import Workbench

BYTES = 200_000


class AgentLogPage(QFrame):
    """Reads when a node is shown and when asked to; errors stand in the place of the text."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._workbench = workbench
        self.node: int | None = None
        self._call: Call | None = None
        self._lines: list[str] = []
        self.search = QLineEdit(self)
        self.search.setPlaceholderText("Show only lines with…")
        self.search.setAccessibleName("Filter the agent's log")
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._show_lines)
        self.refresh = QPushButton(icon("refresh-cw"), "Refresh", self)
        self.refresh.clicked.connect(self.read)
        self._note = QLabel(self)
        self._note.setProperty("role", "muted")
        self._error = QLabel(self)
        self._error.setProperty("role", "error")
        self._error.setWordWrap(True)
        self._error.setTextFormat(Qt.TextFormat.PlainText)
        self._error.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._error.hide()
        self.text = QPlainTextEdit(self)
        self.text.setReadOnly(True)
        self.text.setTabChangesFocus(True)
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.text.setFont(monospace())
        self.text.setAccessibleName("The agent's log")
        tools = QHBoxLayout()
        tools.setSpacing(SPACING)
        tools.addWidget(self.search, 1)
        tools.addWidget(self._note)
        tools.addWidget(self.refresh)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2 * SPACING, 2 * SPACING, 2 * SPACING, 2 * SPACING)
        layout.setSpacing(SPACING)
        layout.addLayout(tools)
        layout.addWidget(self._error)
        layout.addWidget(self.text, 1)

    def show_node(self, id: int | None) -> None:
        """Show another agent's log; None forgets it."""
        if id == self.node:
            return
        self.node = id
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._lines = []
        self.text.clear()
        if id is not None:
            self.read()

    @Slot()
    def read(self) -> None:
        """Ask the agent."""
        node = self.node
        if node is None or self._call is not None:
            return
        self._note.setText("Reading…")
        self.refresh.setEnabled(False)
        call = self._workbench.bridge.call(
            lambda controller, report: controller.read_agent_log(node, BYTES), "reading the agent's log"
        )
        call.done.connect(self._on_text)
        call.failed.connect(self._on_failed)
        call.ended.connect(self._on_ended)
        self._call = call

    @Slot(object)
    def _on_text(self, text: str) -> None:
        if self.sender() is not self._call:
            return
        self._error.hide()
        self._lines = text.splitlines()
        self._show_lines()

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        if self.sender() is not self._call:
            return
        self._note.setText("")
        self._error.setText(f"The log cannot be read: {error.message} {error.advice}".rstrip())
        self._error.show()

    @Slot()
    def _on_ended(self) -> None:
        if self.sender() is self._call:
            self._call = None
            self.refresh.setEnabled(True)

    @Slot()
    def _show_lines(self) -> None:
        wanted = self.search.text().casefold()
        lines = [line for line in self._lines if wanted in line.casefold()] if wanted else self._lines
        bar = self.text.verticalScrollBar()
        at_end = bar.value() >= bar.maximum() - 1
        self.text.setPlainText("\n".join(lines))
        if at_end:
            self.text.moveCursor(QTextCursor.MoveOperation.End)
            self.text.moveCursor(QTextCursor.MoveOperation.StartOfLine)
        if not self._lines:
            self._note.setText("The log is empty.")
        else:
            of = f" of {len(self._lines):,}" if wanted else ""
            self._note.setText(f"The last {len(lines):,}{of} lines" if not wanted else f"{len(lines):,}{of} lines")
