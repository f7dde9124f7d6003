"""The table of an answer's tokens."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtGui import QGuiApplication, QKeyEvent, QKeySequence
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from app.ui.paging.row_delegate import RowDelegate
from app.ui.runs.tokens_model import TokenColumn, TokenRow, TokensModel
from app.ui.theme import SPACING, ThemeKeeper

_WIDEST = {
    TokenColumn.NUMBER: "20,000", TokenColumn.TEXT: "␣understanding", TokenColumn.AT: "59.99 min",
    TokenColumn.TOOK: "999.9 ms",
    TokenColumn.COMPUTE: "Computing__", TokenColumn.QUEUE: "Waiting____", TokenColumn.WIRE: "On the way__",
    TokenColumn.BATCH: "In step_", TokenColumn.PROBABILITY: "Probability__",
}  # fmt: skip


class TokensView(QTableView):
    """Shows TokenRows; columns of what was not kept are hidden."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.tokens = TokensModel(self)
        self.setModel(self.tokens)
        self.setAccessibleName("Tokens of the answer")
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setCornerButtonEnabled(False)
        self.setItemDelegate(RowDelegate(theme, self))
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + SPACING)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        for column, text in _WIDEST.items():
            header.resizeSection(column, self.fontMetrics().horizontalAdvance(text) + 2 * SPACING)
        header.setSectionResizeMode(TokenColumn.INSTEAD, QHeaderView.ResizeMode.Stretch)

    def show_rows(self, rows: Sequence[TokenRow]) -> None:
        self.tokens.show_rows(rows)
        for column in (TokenColumn.AT, TokenColumn.TOOK, TokenColumn.COMPUTE, TokenColumn.QUEUE, TokenColumn.WIRE,
                       TokenColumn.BATCH):  # fmt: skip
            self.setColumnHidden(column, not self.tokens.has_times)
        self.setColumnHidden(TokenColumn.PROBABILITY, not self.tokens.has_logprobs)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Copying takes the whole selected rows, with tabs between the cells."""
        if not event.matches(QKeySequence.StandardKey.Copy):
            super().keyPressEvent(event)
            return
        rows = sorted({index.row() for index in self.selectionModel().selectedRows()})
        columns = [column for column in TokenColumn if not self.isColumnHidden(column)]
        lines = ["\t".join(str(self.tokens.index(row, column).data()) for column in columns) for row in rows]
        if lines:
            QGuiApplication.clipboard().setText("\n".join(lines))
