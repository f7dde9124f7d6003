"""What a paged model shows: a query that can be counted and read a page at a time. Everything here runs in threads.

Rows are numbered from the newest, pages from the oldest row: page 0 holds the hundred oldest rows for ever, and new
rows at the top move no page that was read already."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from app.registry import Registry


PAGE = 100
"""Rows that are read at once."""

RowId = int | str


class Listing(Protocol):
    """A query, newest rows first. `last` is the newest id that belongs to it, None for all there are."""

    @property
    def noun(self) -> str:
        """What the registry calls the rows when it tells that they changed."""

    def newest(self, registry: Registry) -> int | None:
        """The newest id of the moment; None where rows cannot be told apart by age."""

    def count(self, registry: Registry, after: int | None, last: int | None) -> int: ...

    def position(self, registry: Registry, id: RowId, last: int | None) -> int | None: ...

    def page(self, registry: Registry, last: int | None, offset: int, limit: int) -> Sequence[Any]:
        """Records as the table shows them."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page's records, oldest first."""

    number: int
    records: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """How a model shows a listing now, and what it wants to find again."""

    last: int | None = None
    total: int | None = None
    """None: nothing is known yet."""
    held: bool = False
    """Rows after `last` are counted only."""
    ids: tuple[RowId, ...] = ()
    """Rows whose place is asked for, the most important one first."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A listing at a moment."""

    last: int | None
    total: int
    newer: int
    """Rows after the `last` that was asked about; part of the total unless it was held."""
    is_moved: bool
    """The rows that were known are not the same number any more: places have to be found anew."""
    places: dict[RowId, int] = field(default_factory=dict)
    pages: tuple[Page, ...] = ()
    """What is in sight, so that nothing has to be shown as empty meanwhile."""


def look(listing: Listing, registry: Registry, asked: Asked) -> Snapshot:
    """Count a listing, and find again what moved."""
    newest = listing.newest(registry)
    if asked.total is None or asked.last is None or newest is None:
        last, total, newer = newest, listing.count(registry, None, newest), 0
        is_moved = total != asked.total
    else:
        known = listing.count(registry, None, asked.last)
        newer = listing.count(registry, asked.last, newest)
        last, total = (asked.last, known) if asked.held else (newest, known + newer)
        is_moved = known != asked.total
    if not is_moved:
        return Snapshot(last, total, newer, False)
    found = ((id, listing.position(registry, id, last)) for id in asked.ids)
    places = {id: place for id, place in found if place is not None}
    focus = next(iter(places.values()), 0)
    number = page_of(focus, total)
    # The page with the row in focus, and the next one down, which may be in sight as well.
    wanted = [each for each in (number, number - 1) if each >= 0 and total]
    pages = tuple(read_page(listing, registry, last, total, each) for each in wanted)
    return Snapshot(last, total, newer, True, places, pages)


def page_of(row: int, total: int) -> int:
    return (total - 1 - row) // PAGE


def rows_of(number: int, total: int) -> tuple[int, int]:
    """The first and the last row of a page, counted from the newest."""
    return max(0, total - (number + 1) * PAGE), total - 1 - number * PAGE


def read_page(listing: Listing, registry: Registry, last: int | None, total: int, number: int) -> Page:
    first, final = rows_of(number, total)
    records = listing.page(registry, last, first, final - first + 1)
    return Page(number, tuple(reversed(records)))


class NumberedListing(ABC):
    """Subclasses say which table, and with which query; they are frozen dataclasses, so that they can be compared."""

    @property
    @abstractmethod
    def noun(self) -> str:
        """What the registry calls the rows."""

    @abstractmethod
    def table(self, registry: Registry) -> Any:
        """The part of the registry that is asked: it has newest, count, position and list."""

    @abstractmethod
    def query(self) -> dict[str, Any]:
        """What the rows are narrowed down to."""

    def newest(self, registry: Registry) -> int | None:
        return int(self.table(registry).newest())

    def count(self, registry: Registry, after: int | None, last: int | None) -> int:
        return int(self.table(registry).count(**self.query(), after_id=after, last_id=last))

    def position(self, registry: Registry, id: RowId, last: int | None) -> int | None:
        place: int | None = self.table(registry).position(id, **self.query(), last_id=last)
        return place

    def page(self, registry: Registry, last: int | None, offset: int, limit: int) -> Sequence[Any]:
        records: Sequence[Any] = self.table(registry).list(**self.query(), last_id=last, offset=offset, limit=limit)
        return records
