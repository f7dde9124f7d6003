"""How values that databases know differently, or not at all, are stored: times, JSON, text from anywhere."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from peewee import CharField, DateTimeField, TextField

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def now() -> datetime:
    """The present, timezone-aware."""
    return datetime.now(UTC)


def storable(text: str) -> str:
    """The text with NUL and lone surrogates, which not every database can hold, shown as U+FFFD.

    A model may generate anything; its answer must never be what cannot be recorded. Token ids stay exact.
    """
    return _UNSTORABLE.sub("\ufffd", text)


class Words(CharField):
    """A short text that may be indexed."""

    def db_value(self, value: object) -> object:
        return storable(str(value)) if value is not None else None


class Prose(TextField):
    """A text of any length."""

    def db_value(self, value: object) -> object:
        return storable(str(value)) if value is not None else None


class Instant(DateTimeField):
    """A timezone-aware time, stored as UTC without a zone, to the microsecond.

    Written as text of fixed width, so that SQLite, which has no type for it, sorts it right.
    """

    def db_value(self, value: object) -> object:
        if value is None:
            return None
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise ValueError(f"{self.name} needs a timezone-aware datetime, not {value!r}")
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")

    def python_value(self, value: object) -> datetime | None:
        if value is None:
            return None
        stored = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return stored.replace(tzinfo=UTC)


class Json(TextField):
    """Anything JSON can say, as ASCII text: the registry never looks inside, so no database needs to."""

    def db_value(self, value: object) -> object:
        return json.dumps(value, separators=(",", ":"))

    def python_value(self, value: object) -> object:
        return json.loads(str(value))


class TokenIds(Json):
    """Token ids, in order."""

    def db_value(self, value: object) -> object:
        return super().db_value(value if isinstance(value, (list, tuple)) else list(value))  # type: ignore[call-overload]

    def python_value(self, value: object) -> tuple[int, ...]:
        return tuple(json.loads(str(value)))
