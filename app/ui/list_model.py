"""Rows of a list that are held in memory, for lists that show them whole: what each model of them needs of Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from PySide6.QtCore import QAbstractListModel, QModelIndex, QObject

from app.ui.list_delegate import Index

Row = TypeVar("Row")


class ListModel(QAbstractListModel, Generic[Row]):
    """Subclasses say what is shown of a row (`data`). Rows are changed by these methods alone, which tell the views."""

    def __init__(self, rows: Sequence[Row] = (), parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.rows: list[Row] = list(rows)

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else len(self.rows)

    def row(self, index: Index) -> Row | None:
        """What stands at an index; None where there is none."""
        return self.rows[index.row()] if index.isValid() and index.row() < len(self.rows) else None

    def reset(self, rows: Sequence[Row]) -> None:
        """Show others: nothing stays chosen."""
        self.beginResetModel()
        self.rows = list(rows)
        self.endResetModel()

    def insert(self, at: int, *rows: Row) -> None:
        self.beginInsertRows(QModelIndex(), at, at + len(rows) - 1)
        self.rows[at:at] = rows
        self.endInsertRows()

    def remove(self, at: int, count: int = 1) -> None:
        self.beginRemoveRows(QModelIndex(), at, at + count - 1)
        del self.rows[at : at + count]
        self.endRemoveRows()

    def replace(self, at: int, row: Row) -> None:
        """The same row, of which something is another."""
        self.rows[at] = row
        self.tell(at)

    def tell(self, at: int) -> None:
        """Something of a row is another."""
        self.dataChanged.emit(self.index(at), self.index(at))

    def tell_all(self, *roles: int) -> None:
        """These roles of every row are others."""
        if self.rows:
            self.dataChanged.emit(self.index(0), self.index(len(self.rows) - 1), list(roles))
