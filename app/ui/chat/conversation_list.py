"""The list of conversations as Qt's model: what changed last comes first."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from PySide6.QtCore import QModelIndex, QObject, Qt, Signal

from app.figures import ago, clock
from app.ui.chat.conversation import Summary
from app.ui.list_delegate import Index
from app.ui.list_model import ListModel


class ListRole(IntEnum):
    ID = Qt.ItemDataRole.UserRole + 1
    MODEL = Qt.ItemDataRole.UserRole + 2
    WHEN = Qt.ItemDataRole.UserRole + 3
    """When it changed last, in words."""
    STREAMING = Qt.ItemDataRole.UserRole + 4
    """Whether an answer is being written in it."""


class ConversationList(ListModel[Summary]):
    """Rows are Summaries; a conversation that is open stands in it as itself."""

    renamed = Signal(str, str)
    """The user gave a conversation (id) another title."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__((), parent)
        self._streaming: set[str] = set()

    # --- what Qt asks ---

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if (summary := self.row(index)) is None:
            return None
        match role:
            case Qt.ItemDataRole.DisplayRole | Qt.ItemDataRole.EditRole:
                return summary.title
            case Qt.ItemDataRole.ToolTipRole:
                return f"{summary.title}\n{summary.model or 'no model'} · {clock(summary.updated_at)}"
            case Qt.ItemDataRole.AccessibleTextRole:
                state = ", an answer is being written" if summary.id in self._streaming else ""
                return f"{summary.title}, {summary.model}, {ago(summary.updated_at)}{state}"
            case ListRole.ID:
                return summary.id
            case ListRole.MODEL:
                return summary.model
            case ListRole.WHEN:
                return ago(summary.updated_at)
            case ListRole.STREAMING:
                return summary.id in self._streaming
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        return super().flags(index) | Qt.ItemFlag.ItemIsEditable if index.isValid() else Qt.ItemFlag.NoItemFlags

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        title = " ".join(str(value).split())
        if role != Qt.ItemDataRole.EditRole or not index.isValid() or not title:
            return False
        summary = self.rows[index.row()]
        if title != summary.title:
            summary.title = title
            self.tell(index.row())
            self.renamed.emit(summary.id, title)
        return True

    # --- what the desk tells ---

    def row_of(self, id: str) -> int:
        """-1 when it is not listed."""
        return next((row for row, summary in enumerate(self.rows) if summary.id == id), -1)

    def summary(self, id: str) -> Summary | None:
        return next((summary for summary in self.rows if summary.id == id), None)

    def put(self, summary: Summary, *, on_top: bool = False) -> None:
        """Show a conversation as it is now; a new one, or one that was used, goes to the top."""
        row = self.row_of(summary.id)
        if row < 0:
            self.insert(0, summary)
            return
        self.rows[row] = summary
        if on_top and row > 0:
            self.beginMoveRows(QModelIndex(), row, row, QModelIndex(), 0)
            self.rows.insert(0, self.rows.pop(row))
            self.endMoveRows()
            row = 0
        self.tell(row)

    def restore(self, summary: Summary, row: int) -> None:
        """Put a deleted conversation back where it was."""
        self.insert(max(0, min(row, len(self.rows))), summary)

    def take(self, id: str) -> None:
        """It is no more."""
        if (row := self.row_of(id)) >= 0:
            self.remove(row)

    def set_streaming(self, id: str, streaming: bool) -> None:
        (self._streaming.add if streaming else self._streaming.discard)(id)
        if (row := self.row_of(id)) >= 0:
            self.tell(row)

    def refresh_times(self) -> None:
        """The words for the times are others by now."""
        self.tell_all(ListRole.WHEN)
