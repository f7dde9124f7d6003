"""What holds for every format."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from msgspec import Struct

from app.runs import run, trace
from app.runs.export import MEDIA_TYPES, SUFFIXES, ExportFormat, export_runs
from app.runs.export.timings import COLUMNS, STAGE_COLUMNS
from app.runs.run import Run
from tests.runs.samples import request_run, trace_of

FORMATS = Path(__file__).resolve().parent.parent.parent / "docs" / "formats.md"
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
            watched = Watched(**{**fields, "id": str(number)})
            alive.append(weakref.ref(watched))
            yield watched
            del watched
            assert sum(each() is not None for each in alive) <= 2

    with (tmp_path / "out").open("wb") as output:
        assert export_runs(many(), format, output) == 20


def structs(module: ModuleType) -> Iterator[type[Struct]]:
    for thing in vars(module).values():
        if isinstance(thing, type) and issubclass(thing, Struct) and thing.__module__ == module.__name__:
            yield thing


def test_the_documentation_names_every_field_and_every_column() -> None:
    text = FORMATS.read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+?)(?:\[\])?`", text))
    fields = {name for module in (run, trace) for struct in structs(module) for name in struct.__struct_fields__}
    assert len(fields) > 60
    within_arrays = {"token", "logprob", "top", "done", "stages"}
    assert fields - named - within_arrays == set()
    assert {*COLUMNS, *(f"stage_0_{name}" for name in STAGE_COLUMNS)} - named == set()
    assert {format.value for format in ExportFormat} - named == set()
