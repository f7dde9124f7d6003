"""A table over a listing of any length: its rows are counted, and read a page at a time when they come into sight.

Nothing here waits for the database. What has not been read yet shows a placeholder; a page is read by one thread at
a time; what comes back for an earlier listing is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QElapsedTimer, QModelIndex, QObject, Qt, Signal, Slot

from app.ui import make
from app.ui.bridge import Bridge, Call
from app.ui.list_delegate import Index
from app.ui.paging.listing import Asked, Listing, Page, RowId, Snapshot, look, page_of, read_page, rows_of
from app.ui.paging.page_cache import PageCache
from app.ui.tables import ColumnsModel, Role

if TYPE_CHECKING:
    from app.registry import Registry

RELOAD_MILLISECONDS = 500
"""At most so often what is shown is read again because the registry changed."""
AT_ONCE = 2
"""Pages read at the same time."""
WAITING = 4
"""Pages that may wait to be read. Older wishes are dropped: their rows have been scrolled out of sight."""
PLACEHOLDER = "…"

ID_ROLE = Qt.ItemDataRole.UserRole + 1
"""The id of a row, None while it is being read."""


class PagedModel(ColumnsModel):
    """Rows of a listing; subclasses say what a record's cells look like."""

    counted = Signal()
    """`total` or `newer` is another."""
    placed = Signal(object)
    """After a reset: a dict of where the rows are that were to be kept, by id."""
    page_read = Signal()
    """More rows are at hand, or rows changed."""
    failed = Signal(object)
    """A ShardboardError: the registry could not be read."""

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.listing: Listing | None = None
        self.total = 0
        self.newer = 0
        """Rows that came in while it was held."""
        self.is_counted = False
        self.last: int | None = None
        self.kept_ids: Callable[[], tuple[RowId, ...]] = tuple
        """Asked before rows are read again: which rows the view wants to find again."""
        self._bridge = bridge
        self._cache = PageCache()
        self._generation = 0
        self._held = False
        self._live = True
        self._looking = False
        self._look_again = False
        self._reading: set[int] = set()
        self._wanted: deque[int] = deque(maxlen=WAITING)
        self._recent: deque[int] = deque(maxlen=3)
        self._duration = 0
        self._since = QElapsedTimer()
        self._since.start()
        self._timer = make.timer(self, self.reload)
        self._pump = make.timer(self, self._read_wanted)
        bridge.tables_changed.connect(self._on_tables_changed)

    # --- what subclasses say ---

    def cell(self, record: Any, column: int, role: int) -> Any:
        """What a view asks of a record; its text and its hint are those of the column."""
        if role == Role.DisplayRole or role == Role.AccessibleTextRole:
            return self.columns[column].text(record)
        hint = self.columns[column].hint
        return hint(record) if role == Role.ToolTipRole and hint is not None else None

    def id_of(self, record: Any) -> RowId:
        id: RowId = record.id
        return id

    # --- what screens ask ---

    def show_listing(self, listing: Listing) -> None:
        """Show another query. What is shown stays until the first rows of the new one are there."""
        if listing == self.listing:
            return
        self.listing = listing
        self._generation += 1
        self._looking = False
        self._reading.clear()
        self._wanted.clear()
        self._held = False
        self.is_counted = False
        self.reload()

    def hold(self, held: bool) -> None:
        """While held, new rows are counted and not shown: what the user reads does not move."""
        if held != self._held:
            self._held = held
            if not held and self.newer:
                self.reload()

    @property
    def is_held(self) -> bool:
        return self._held

    def set_live(self, live: bool) -> None:
        """Follow the registry, or rest while nobody looks."""
        if live != self._live:
            self._live = live
            if live:
                self.reload()

    def record(self, row: int) -> Any | None:
        """A row's record, None while it is being read."""
        if not 0 <= row < self.total:
            return None
        self._touch(row)
        return self._cache.record(row, self.total)

    def at_hand(self) -> list[tuple[int, Any]]:
        """Rows that have been read, with their records."""
        return [
            (self.total - 1 - number * 100 - place, record)
            for number, records in self._cache.at_hand()
            for place, record in enumerate(records)
            if number * 100 + place < self.total
        ]

    def find(self) -> None:
        """Count anew, as if nothing were known, and tell by `placed` where the rows of `kept_ids` are."""
        self._generation += 1
        self._looking = False
        self.is_counted = False
        self.reload()

    # --- counting ---

    @Slot(object)
    def _on_tables_changed(self, nouns: frozenset[str]) -> None:
        if self.listing is not None and self.listing.noun in nouns and self._live:
            # A count that takes long, over text, is not asked for all the time.
            pause = max(RELOAD_MILLISECONDS, 5 * self._duration)
            if not self._timer.isActive():
                self._timer.start(max(0, int(pause - self._since.elapsed())))

    @Slot()
    def reload(self) -> None:
        """Count again and read again what is in sight."""
        if self.listing is None or not self._live:
            return
        if self._looking:
            self._look_again = True
            return
        listing, self._looking, self._look_again = self.listing, True, False
        self._since.restart()
        asked = Asked(
            self.last if self.is_counted else None,
            self.total if self.is_counted else None,
            self._held,
            self.kept_ids(),
        )
        generation = self._generation

        def read(registry: Registry) -> tuple[int, Asked, Snapshot]:
            return generation, asked, look(listing, registry, asked)

        call = self._bridge.read(read, "reading the registry")
        call.done.connect(self._on_snapshot)
        call.failed.connect(self._on_failed)
        call.cancelled.connect(self._on_look_over)

    @Slot(object)
    def _on_snapshot(self, answer: tuple[int, Asked, Snapshot]) -> None:
        generation, asked, snapshot = answer
        if generation != self._generation:
            return
        self._duration = int(self._since.elapsed())
        self._looking = False
        if snapshot.is_moved or not self.is_counted:
            self._reset(snapshot)
        else:
            self._cache.age()
            if not asked.held and snapshot.newer:
                self.beginInsertRows(QModelIndex(), 0, snapshot.newer - 1)
                self.total = snapshot.total
                self.endInsertRows()
            for number in list(self._recent):
                self._want(number)
        self.last = snapshot.last
        self.newer = snapshot.newer if asked.held else 0
        self.counted.emit()
        if self._look_again or (self.newer and not self._held):
            self.reload()

    def _reset(self, snapshot: Snapshot) -> None:
        self.beginResetModel()
        self._cache.clear()
        self._reading.clear()
        self._wanted.clear()
        self._recent.clear()
        self.is_counted = True
        self.total = snapshot.total
        self.last = snapshot.last
        for page in snapshot.pages:
            self._cache.put(page)
        self._generation += 1  # pages under way were cut from the listing as it was
        self.endResetModel()
        self.placed.emit(snapshot.places)
        self.page_read.emit()

    @Slot(object)
    def _on_failed(self, error: object) -> None:
        self._looking = False
        self.failed.emit(error)

    @Slot()
    def _on_look_over(self) -> None:
        self._looking = False

    # --- reading ---

    def _touch(self, row: int) -> None:
        number = page_of(row, self.total)
        if number not in self._recent:
            self._recent.append(number)
        if self._cache.needs(number, self.total):
            self._want(number)

    def _want(self, number: int) -> None:
        if number in self._reading or number in self._wanted or number * 100 >= self.total:
            return
        self._wanted.append(number)
        if not self._pump.isActive():
            self._pump.start(0)  # not in the midst of painting

    @Slot()
    def _read_wanted(self) -> None:
        while self._wanted and len(self._reading) < AT_ONCE and self.listing is not None:
            self._read(self.listing, self._wanted.pop())  # the latest wish first

    def _read(self, listing: Listing, number: int) -> None:
        self._reading.add(number)
        generation, last, total = self._generation, self.last, self.total

        def read(registry: Registry) -> tuple[int, int, Page]:
            return generation, total, read_page(listing, registry, last, total, number)

        call: Call = self._bridge.read(read, "reading the registry")
        call.done.connect(self._on_page)
        call.failed.connect(self._on_page_failed)

    @Slot(object)
    def _on_page(self, answer: tuple[int, int, Page]) -> None:
        generation, total, page = answer
        if generation != self._generation:
            return
        self._reading.discard(page.number)
        first, final = rows_of(page.number, total)
        if self._cache.put(page):
            shift = self.total - total  # rows that came in at the top meanwhile
            self.dataChanged.emit(self.index(first + shift, 0), self.index(final + shift, self.columnCount() - 1))
            self.page_read.emit()
        if len(page.records) < final - first + 1:
            self.reload()  # rows were removed: the count is out of date
        self._read_wanted()

    @Slot(object)
    def _on_page_failed(self, error: object) -> None:
        self._reading.clear()
        self.failed.emit(error)

    # --- Qt's questions ---

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else self.total

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid() or role in _NEVER:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return self.columns[index.column()].alignment
        record = self.record(index.row())
        if role == ID_ROLE:
            return None if record is None else self.id_of(record)
        if record is None:
            return PLACEHOLDER if role == Qt.ItemDataRole.DisplayRole else None
        return self.cell(record, index.column(), role)


_NEVER = frozenset(
    {
        Qt.ItemDataRole.FontRole,
        Qt.ItemDataRole.BackgroundRole,
        Qt.ItemDataRole.CheckStateRole,
        Qt.ItemDataRole.SizeHintRole,
        Qt.ItemDataRole.EditRole,
    }
)
"""Asked for every cell that is painted, and never answered."""
