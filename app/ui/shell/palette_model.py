"""The commands of the palette as a model, and the proxy that ranks them by what was typed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from PySide6.QtCore import QObject, QSortFilterProxyModel, Qt
from PySide6.QtGui import QIcon

from app.ui.list_delegate import Index
from app.ui.list_model import ListModel
from app.ui.shell.fuzzy import fit

MOST_RECENT = 5


class Role(IntEnum):
    ENTRY = Qt.ItemDataRole.UserRole
    IS_RECENT = Qt.ItemDataRole.UserRole + 1


@dataclass(frozen=True, eq=False)
class PaletteEntry:
    """One command."""

    text: str
    hint: str
    """Where it belongs: "Board", "Nodes", "Go to"."""
    icon: QIcon
    shortcut: str
    """As people read it: Ctrl+Z."""
    run: Callable[[], object]
    enabled: bool = True
    why_not: str = ""
    """Why it cannot be run now."""

    @property
    def note(self) -> str:
        """What stands behind its text: where it belongs, or why it cannot be run."""
        return self.hint if self.enabled else self.why_not or "Not possible right now"


class PaletteModel(ListModel[PaletteEntry]):
    """All commands, in the order they were given."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__((), parent)
        self._recent: list[tuple[str, str]] = []

    @property
    def recent(self) -> list[tuple[str, str]]:
        """(hint, text) of what was used last, the latest first."""
        return list(self._recent)

    def used(self, entry: PaletteEntry) -> None:
        """It was run: next time it stands at the top."""
        key = (entry.hint, entry.text)
        self._recent = [key, *(each for each in self._recent if each != key)][:MOST_RECENT]
        self.tell_all(Role.IS_RECENT)

    def recency(self, entry: PaletteEntry) -> int:
        """0 for the latest; a large number for what was not used lately."""
        key = (entry.hint, entry.text)
        return self._recent.index(key) if key in self._recent else MOST_RECENT

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        if (entry := self.row(index)) is None:
            return None
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return entry.text
            case Qt.ItemDataRole.AccessibleTextRole:
                return ", ".join(part for part in (entry.text, entry.note, entry.shortcut) if part)
            case Qt.ItemDataRole.ToolTipRole:
                return None if entry.enabled else entry.note
            case Role.ENTRY:
                return entry
            case Role.IS_RECENT:
                return self.recency(entry) < MOST_RECENT
        return None


class PaletteProxy(QSortFilterProxyModel):
    """Only what fits, the best first; without a query what was used last comes first."""

    def __init__(self, source: PaletteModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._commands = source
        self._query = ""
        self.setSourceModel(source)
        self.setDynamicSortFilter(True)
        self.sort(0)

    def set_query(self, query: str) -> None:
        self._query = query.strip()
        self.invalidate()

    def entry(self, row: int) -> PaletteEntry:
        return self._commands.rows[self.mapToSource(self.index(row, 0)).row()]

    def _fit(self, entry: PaletteEntry) -> float | None:
        own = fit(self._query, entry.text)
        # "nodes add" finds "Add a node" of Nodes, but worse than what says it in its own text.
        with_hint = fit(self._query, f"{entry.text} {entry.hint}")
        return own if own is not None else None if with_hint is None else with_hint - 1

    def filterAcceptsRow(self, row: int, parent: Index) -> bool:
        return self._fit(self._commands.rows[row]) is not None

    def lessThan(self, left: Index, right: Index) -> bool:
        one, other = self._rank(left.row()), self._rank(right.row())
        return one < other

    def _rank(self, row: int) -> tuple[float, bool, int, int]:
        entry = self._commands.rows[row]
        value = self._fit(entry) if self._query else 0.0
        return (-(value or 0.0), not entry.enabled, self._commands.recency(entry), row)
