"""The pages of a listing that are at hand, those used last kept longest."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from app.ui.paging.listing import PAGE, Page

KEPT = 24
"""Pages: 2,400 rows are enough to scroll about in without reading again."""


class PageCache:
    """Records by row, where rows count from the newest and pages from the oldest (see `listing`)."""

    def __init__(self) -> None:
        self._pages: OrderedDict[int, tuple[Any, ...]] = OrderedDict()
        self._stale: set[int] = set()

    def clear(self) -> None:
        self._pages.clear()
        self._stale.clear()

    def age(self) -> None:
        """Everything may be out of date; it is still shown until it has been read again."""
        self._stale = set(self._pages)

    def record(self, row: int, total: int) -> Any | None:
        number, place = divmod(total - 1 - row, PAGE)
        page = self._pages.get(number)
        if page is None or place >= len(page):
            return None
        return page[place]

    def needs(self, number: int, total: int) -> bool:
        """Whether a page has to be read: it is not there, out of date, or shorter than it should be."""
        page = self._pages.get(number)
        if page is None or number in self._stale:
            return True
        self._pages.move_to_end(number)
        return len(page) < min(PAGE, total - number * PAGE)

    def put(self, page: Page) -> bool:
        """Keep a page; tells whether it is another one than before."""
        changed = self._pages.get(page.number) != page.records
        self._pages[page.number] = page.records
        self._pages.move_to_end(page.number)
        self._stale.discard(page.number)
        while len(self._pages) > KEPT:
            dropped, _ = self._pages.popitem(last=False)
            self._stale.discard(dropped)
        return changed

    def at_hand(self) -> list[tuple[int, tuple[Any, ...]]]:
        """All pages with their numbers."""
        return list(self._pages.items())
