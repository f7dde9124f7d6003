"""The keys of the HTTP API as a table: by name, what they end in, when they were used."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt

from app.figures import ago, clock
from app.registry.records import ApiKeyRecord

Index = QModelIndex | QPersistentModelIndex
Role = Qt.ItemDataRole


class KeyColumn(IntEnum):
    NAME = 0
    HINT = 1
    MADE = 2
    USED = 3


HEADERS = ("Name", "Ends in", "Made", "Last used")


class KeysModel(QAbstractTableModel):
    """Read-only."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: tuple[ApiKeyRecord, ...] = ()

    def show_keys(self, keys: Sequence[ApiKeyRecord]) -> None:
        if tuple(keys) != self._keys:
            self.beginResetModel()
            self._keys = tuple(keys)
            self.endResetModel()

    def name(self, row: int) -> str | None:
        return self._keys[row].name if 0 <= row < len(self._keys) else None

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - as Qt has it
        return 0 if parent.isValid() else len(self._keys)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - as Qt has it
        return 0 if parent.isValid() else len(KeyColumn)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Role.DisplayRole) -> Any:
        if orientation == Qt.Orientation.Horizontal and role == Role.DisplayRole and 0 <= section < len(HEADERS):
            return HEADERS[section]
        return None

    def data(self, index: Index, role: int = Role.DisplayRole) -> Any:
        if role != Role.DisplayRole or not index.isValid() or index.row() >= len(self._keys):
            return None
        key = self._keys[index.row()]
        match index.column():
            case KeyColumn.NAME:
                return key.name
            case KeyColumn.HINT:
                return f"…{key.hint}"
            case KeyColumn.MADE:
                return clock(key.created_at)
        return ago(key.last_used_at)
