"""Listings of tables whose ids are numbers that grow: requests, jobs, events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.ui.paging.listing import RowId

if TYPE_CHECKING:
    from app.registry import Registry


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
        return self.records(registry, last, offset, limit)

    def records(self, registry: Registry, last: int | None, offset: int, limit: int) -> Sequence[Any]:
        records: Sequence[Any] = self.table(registry).list(**self.query(), last_id=last, offset=offset, limit=limit)
        return records
