"""What the registry's tables have in common: rows in, frozen records out, pages of long listings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

from peewee import Database, Expression, Field, Model, fn

from app.errors import RegistryError
from app.registry.fields import now
from app.registry.store import Store

R = TypeVar("R")
T = TypeVar("T")

Row = dict[str, Any]
"""Values by field name, as Peewee converts them. Rows do not leave this package."""


class Table(Generic[R]):
    """One table. Subclasses say which, and offer what can be asked of it.

    Methods that take a `Database` run inside a read or a write that is under way.
    """

    model: ClassVar[type[Model]]
    noun: ClassVar[str]
    """What a row is called in messages to the user."""

    advice: ClassVar[str] = ""
    """What to do when a row that a user named does not exist."""

    order: ClassVar[tuple[str, ...]] = ("id",)
    """The fields that listings are sorted by; a minus sign in front turns one round."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _record(self, row: Row) -> R:
        raise NotImplementedError

    # --- inside a read or a write ---

    def _select(
        self, database: Database, *where: Expression | None, offset: int = 0, limit: int | None = None
    ) -> list[R]:
        """The records that satisfy all conditions (None: no condition), in order."""
        conditions = [condition for condition in where if condition is not None]
        query = self.model.select().order_by(*self._order())
        if limit is None and not offset:
            query = query.where(*conditions) if conditions else query
        else:
            # The page's ids come from an index alone: stepping over 90,000 rows must not read 90,000 prompts.
            query = query.where(self._field("id").in_(self._page(*where, offset=offset, limit=limit)))
        return [self._record(row) for row in query.dicts().execute(database)]

    def _page(self, *where: Expression | None, offset: int, limit: int | None) -> Any:
        """A query for the ids of a page."""
        conditions = [condition for condition in where if condition is not None]
        ids = self.model.select(self._field("id")).order_by(*self._order())
        ids = ids.where(*conditions) if conditions else ids
        return ids.offset(max(offset, 0)).limit(limit if limit is not None else 2**62)

    def _one(self, database: Database, condition: Expression) -> R | None:
        return next(iter(self._select(database, condition)), None)

    def _by_id(self, database: Database, id: int | str) -> R:
        record = self._one(database, self._field("id") == id)
        if record is None:
            raise self._missing(id)
        return record

    def _insert(self, database: Database, values: Mapping[str, object]) -> R:
        stamped = {**{name: now() for name in ("created_at", "updated_at") if self._has(name)}, **values}
        id = self.model.insert(stamped).execute(database)
        # SQLite answers with the row's number, also where the key is another one.
        return self._by_id(database, str(values["id"]) if "id" in values else int(id))

    def _change(self, database: Database, id: int | str, changes: Mapping[str, object]) -> R:
        """Change a row's fields. Raises RegistryError when it is gone, TypeError for a field that does not exist."""
        if unknown := [name for name in changes if not self._has(name) or name == "id"]:
            raise TypeError(f"a {self.noun} has no field {unknown[0]!r} to change")
        stamped = {**({"updated_at": now()} if self._has("updated_at") else {}), **changes}
        if stamped:
            self.model.update(stamped).where(self._field("id") == id).execute(database)
        return self._by_id(database, id)

    def _delete(self, database: Database, *where: Expression) -> int:
        return int(self.model.delete().where(*where).execute(database))

    # --- on their own ---

    def _list(self, *where: Expression | None, offset: int = 0, limit: int | None = None) -> list[R]:
        return self._store.read(lambda database: self._select(database, *where, offset=offset, limit=limit))

    def _count(self, *where: Expression | None) -> int:
        conditions = [condition for condition in where if condition is not None]
        query = self.model.select(self._field("id"))
        query = query.where(*conditions) if conditions else query
        return self._store.read(lambda database: int(query.count(database)))

    def newest(self) -> int:
        """The highest id given out so far that is still there; 0 for an empty table. Only where ids are numbers."""
        query = self.model.select(fn.MAX(self._field("id")))
        return self._store.read(lambda database: int(query.scalar(database) or 0))

    def _position(self, id: int | str, *where: Expression | None) -> int | None:
        """How many rows of a listing stand before this one; None when it is not among them."""
        conditions = [condition for condition in where if condition is not None]
        names = [name.lstrip("-") for name in self.order]
        mine = self.model.select(*map(self._field, names)).where(self._field("id") == id, *conditions)

        def work(database: Database) -> int | None:
            row = next(iter(mine.dicts().execute(database)), None)
            if row is None:
                return None
            before = self.model.select(self._field("id")).where(self._before(row), *conditions)
            return int(before.count(database))

        return self._store.read(work)

    def _before(self, row: Row) -> Expression:
        """A row stands before this one in a listing: by the first field, or by the next where that is the same."""
        condition: Expression | None = None
        for signed in reversed(self.order):
            name = signed.lstrip("-")
            field = self._field(name)
            first = field > row[name] if signed.startswith("-") else field < row[name]
            # "At or beyond" is what an index can look up; without it every row would be compared.
            reach = field >= row[name] if signed.startswith("-") else field <= row[name]
            condition = first if condition is None else reach & (first | condition)
        assert condition is not None  # every table has an order
        return condition

    def _get(self, id: int | str) -> R:
        return self._store.read(lambda database: self._by_id(database, id))

    def _add(self, values: Mapping[str, object]) -> R:
        return self._write(lambda database: self._insert(database, values))

    def _update(self, id: int | str, changes: Mapping[str, object]) -> R:
        return self._write(lambda database: self._change(database, id, changes))

    def _advance(self, id: int, changes: Mapping[str, object], running: StrEnum) -> R:
        """Change a row whose status has an end: the times it was started (when it is `running`) and completed follow.

        Raises RegistryError when it is over already and would get another status.
        """

        def work(database: Database) -> R:
            before: Any = self._by_id(database, id)
            status = type(before.status)(changes.get("status", before.status))
            if before.status.is_over and status != before.status:
                what = f"{self.noun.capitalize()} {id}"
                raise RegistryError(f"{what} is {before.status} already and cannot become {status}.")
            times: dict[str, object] = {}
            if status is running and before.started_at is None:
                times["started_at"] = now()
            if status.is_over and before.completed_at is None:
                times["completed_at"] = now()
            return self._change(database, id, {**changes, **times})

        return self._write(work)

    def _remove(self, id: int | str) -> R:
        """Remove a row and return what it was. Raises RegistryError when there is none."""

        def work(database: Database) -> R:
            record = self._by_id(database, id)
            self._delete(database, self._field("id") == id)
            return record

        return self._write(work)

    def _write(self, work: Callable[[Database], T]) -> T:
        """Write, and tell those who show this table that it is another now. Beats of the heart go without."""
        result = self._store.write(work)
        self._store.tell_changed(self.noun)
        return result

    def _missing(self, id: int | str) -> RegistryError:
        return RegistryError(f"There is no {self.noun} {id}.", self.advice)

    def _has(self, name: str) -> bool:
        return name in self.model._meta.fields

    def _field(self, name: str) -> Field:
        field: Field = self.model._meta.fields[name]
        return field

    def _order(self) -> list[Any]:
        return [self._field(name[1:]).desc() if name.startswith("-") else self._field(name) for name in self.order]
