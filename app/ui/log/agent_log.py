"""The end of an agent's own log, read over the wire."""

from __future__ import annotations

from PySide6.QtCore import Slot
from PySide6.QtGui import QTextCursor
from PySide6.QtWidgets import QFrame, QWidget

from app.errors import ShardboardError
from app.ui import make
from app.ui.bridge import Call
from app.ui.theme import SPACING
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
        self.search = make.field("Show only lines with…", "Filter the agent's log", self, searches=True)
        self.search.textChanged.connect(self._show_lines)
        self.refresh = make.button("Refresh", self.read, self, picture="refresh-cw")
        self._note = make.label("", "muted", self)
        self._error = make.label("", "error", self, wraps=True, is_plain=True, selectable=True, hidden=True)
        self.text = make.reading("The agent's log", self, wraps=False)
        tools = make.row((self.search, 1), self._note, self.refresh)
        make.column(tools, self._error, (self.text, 1), within=self, margins=2 * SPACING)

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
