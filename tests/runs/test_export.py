"""What holds for every format."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.runs.export import MEDIA_TYPES, SUFFIXES, ExportFormat, export_runs
from app.runs.run import Run
from tests.runs.samples import request_run, trace_of

EXAMPLE = request_run(trace_of(tokens=3, took_us=10_000, stages=[(0, 4_000), (10, 3_000)]))


def test_every_format_has_a_suffix_and_a_media_type() -> None:
    assert set(SUFFIXES) == set(MEDIA_TYPES) == set(ExportFormat)
    assert len(set(SUFFIXES.values())) == len(ExportFormat)


@pytest.mark.parametrize("format", list(ExportFormat))
def test_runs_are_written_while_they_are_read(format: ExportFormat, tmp_path: Path) -> None:
    """Whoever exports 10,000 runs must not hold them all: no run is alive when the third one after it is made."""
    alive: list[weakref.ref[object]] = []

    class Watched(Run, frozen=True, kw_only=True, weakref=True):
        pass

    def many() -> Iterator[Run]:
        for number in range(20):
            fields = {name: getattr(EXAMPLE, name) for name in Run.__struct_fields__}
            run = Watched(**{**fields, "id": str(number)})
            alive.append(weakref.ref(run))
            yield run
            del run
            assert sum(each() is not None for each in alive) <= 2

    with (tmp_path / "out").open("wb") as output:
        assert export_runs(many(), format, output) == 20
