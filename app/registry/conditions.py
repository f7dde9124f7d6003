"""What listings can be narrowed down to, as conditions on a query; None where nothing is asked for."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from peewee import Expression, Field, fn

from app.registry.fields import storable


def matching(field: Field, value: object) -> Expression | None:
    """The condition that a field has this value; none when no value is asked for."""
    return None if value is None else field == value


def among_many(field: Field, value: str | Collection[str] | None) -> Expression | None:
    """As `among`, where the values hold for many rows and are best read along the listing's order.

    SQLite would take the index that begins with the field, then look every row up or sort all of them. Wrapped, the
    field is no use to an index but the one of the order, which covers it.
    """
    if value is None:
        return None
    return fn.COALESCE(field, "").in_([value] if isinstance(value, str) else list(value))


def among(field: Field, value: str | Collection[str] | None) -> Expression | None:
    """The field has this value, or one of these values. No values at all match nothing."""
    if value is None:
        return None
    if isinstance(value, str):
        return matching(field, value)
    return matching(field, next(iter(value))) if len(value) == 1 else field.in_(list(value))


def within(field: Field, since: datetime | None, until: datetime | None) -> tuple[Expression | None, Expression | None]:
    """The time is `since` or later, and before `until`."""
    return (None if since is None else field >= since, None if until is None else field < until)


def numbered(field: Field, after_id: int | None, last_id: int | None) -> tuple[Expression | None, Expression | None]:
    """The id is above `after_id` and at most `last_id`.

    A listing up to the newest id of a moment does not move when rows are added: pages of it can be fetched by offset
    while requests come in.
    """
    # The upper end holds for nearly all rows. As a sum it is no use to an index, so that SQLite takes one that covers
    # the query and does not go through the rows themselves.
    return (None if after_id is None else field > after_id, None if last_id is None else (field + 0) <= last_id)


def saying(text: str | None, *fields: Field) -> Expression | None:
    """One of the fields contains the text, whatever the case; wildcards of LIKE are letters like any other.

    SQLite folds the case of ASCII only. Of other letters the lower, the upper and the capitalized form are tried,
    which finds all but words of mixed case.
    """
    if not text:
        return None
    wanted = storable(text)
    forms = {wanted} if wanted.isascii() else {wanted, wanted.lower(), wanted.upper(), wanted.capitalize()}
    found: Expression | None = None
    for field in fields:
        for form in sorted(forms):
            found = field.contains(form) if found is None else found | field.contains(form)
    return found
