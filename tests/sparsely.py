"""Parameters of which the suite takes some, and the long run (`./test -m long`) the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

LONG_SECONDS = 900
"""What a test may take that is for the long run."""


def every_second(values: Iterable[Any]) -> list[Any]:
    """The first, the third and so on; those between them are for the long run."""
    return [_long(value) if number % 2 else value for number, value in enumerate(values)]


def only(kept: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Those that are among the `kept`; all others are for the long run."""
    return [value if value in kept else _long(value) for value in values]


def _long(value: Any) -> Any:
    several = value if isinstance(value, tuple) else (value,)
    return pytest.param(*several, marks=(pytest.mark.long, pytest.mark.timeout(LONG_SECONDS)))
