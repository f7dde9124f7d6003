"""`export` as a user gives it: what is chosen, where it goes, and what is said when that cannot be."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from app.cli import exporting
from app.cli.exporting import read_moment
from app.cli.root import ShardboardGroup
from app.errors import BadInput
from app.paths import Home
from app.registry import Registry, RequestStatus
from app.runs.trace import pack
from tests.runs.samples import trace_of
from tests.runs.trace_format import checked

app = typer.Typer(cls=ShardboardGroup)
exporting.register(app)


@app.callback()
def root() -> None:
    """With a second level the command has its name, as in the program."""


@pytest.fixture
def registry(home: Home) -> Registry:
    """Three requests of 40 tokens (the last one failed before its first), and a job."""
    with Registry.open(home.registry) as registry:
        for number in range(3):
            record, _ = registry.requests.begin(model_name=f"model-{number}", prompt=f"Prompt {number}")
            done = replace(
                record, status=RequestStatus.COMPLETED, result="Paris.", token_ids=tuple(range(40)),
                completion_tokens=40, completed_at=datetime.now(UTC),
            )  # fmt: skip
            trace = pack(trace_of(tokens=40, took_us=10_000, stages=[(0, 4_000), (50, 3_000)]))
            if number == 2:
                done, trace = replace(done, status=RequestStatus.FAILED, error="mini is gone.", token_ids=()), None
            registry.requests.save(done, trace=trace).result()
        registry.jobs.add(kind="cut", title="Cut model-0", model_name="model-0")
        return registry


def export(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == code, result.output
    return result


def ids(result: Result) -> list[str]:
    return [json.loads(line)["id"] for line in result.stdout.splitlines()]


def test_runs_by_their_ids_in_the_order_given(registry: Registry) -> None:
    assert ids(export("2", "1", "2")) == ["2", "1"]


def test_all_is_every_kind_and_kind_alone_is_all_of_it(registry: Registry) -> None:
    lines = [json.loads(line) for line in export("--all").stdout.splitlines()]
    assert [(line["kind"], line["id"]) for line in lines] == [
        ("request", "3"),
        ("request", "2"),
        ("request", "1"),
        ("job", "1"),
    ]
    assert ids(export("--kind", "job")) == ["1"]


def test_runs_by_time_model_and_number(registry: Registry) -> None:
    assert ids(export("--since", "1h")) == ["3", "2", "1"]
    assert ids(export("--until", "2020-01-01")) == []
    assert ids(export("--model", "model-1")) == ["2"]
    assert ids(export("--limit", "2")) == ["3", "2"]


def test_a_controller_at_work_does_not_keep_others_from_exporting(home: Home, registry: Registry) -> None:
    with Registry.open(home.registry):
        assert ids(export("1")) == ["1"]


@pytest.mark.parametrize(
    ("name", "is_right"),
    [
        ("runs.jsonl", lambda data: len(data.splitlines()) == 2),
        ("runs.csv", lambda data: len(list(csv.DictReader(io.StringIO(data.decode())))) == 80),
        ("runs.html", lambda data: data.startswith(b"<!doctype html>")),
        ("runs.trace.json", lambda data: len(checked(data)) > 80),
    ],
)
def test_the_name_of_the_file_says_the_format(
    registry: Registry, tmp_path: Path, name: str, is_right: Callable[[bytes], bool]
) -> None:
    result = export("1", "2", "--output", str(tmp_path / name))
    assert result.stdout == ""
    assert "2 runs" in " ".join(result.stderr.split())
    assert is_right((tmp_path / name).read_bytes())
    assert {each.name for each in tmp_path.iterdir()} == {name, "home"}


def test_any_format_may_go_to_stdout(registry: Registry) -> None:
    assert "Why it ended" in export("3", "--format", "html").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "Which runs to export is not said."),
        (("1", "--all"), 2, "exclude each other"),
        (("99",), 1, "99"),
        (("seven",), 1, "request"),
        (("--since", "yesterday"), 2, "--since is 'yesterday', which is no time."),
        (("--since", "1h", "--until", "2h"), 2, "Nothing lies between"),
        (("1", "-o", "runs.json"), 2, "does not say which format"),
        (("1", "-o", "no/such/folder/runs.csv"), 2, "cannot be written"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    result = export(*arguments, code=code)
    assert said in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert list(work.iterdir()) == []


def test_an_id_that_is_missing_leaves_the_old_file_as_it_was(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text("older\n")
    export("1", "99", "-o", str(file), code=1)
    assert file.read_text() == "older\n"


def test_a_full_disk_is_said_and_leaves_nothing_half(registry: Registry, small_disk: Path) -> None:
    file = small_disk / "runs.html"
    file.write_text("older")
    filler = small_disk / "filler"
    with filler.open("wb") as taken:
        taken.write(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - 4096))
    result = export("1", "2", "-o", str(file), code=1)
    assert "The disk is full" in result.stderr
    assert sorted(each.name for each in small_disk.iterdir()) == ["filler", "runs.html"]
    assert file.read_text() == "older"


def test_moments_are_dates_times_or_how_long_ago() -> None:
    now = datetime(2026, 3, 5, 12, 0, tzinfo=UTC)
    assert read_moment("2h", "--since", now=now) == now - timedelta(hours=2)
    assert read_moment("30min", "--since", now=now) == now - timedelta(minutes=30)
    assert read_moment("1.5d", "--since", now=now) == now - timedelta(hours=36)
    assert read_moment("2026-03-01T14:30+02:00", "--since") == datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    assert read_moment("2026-03-01T14:30Z", "--since") == datetime(2026, 3, 1, 14, 30, tzinfo=UTC)
    local = read_moment("2026-03-01", "--since")
    assert local.tzinfo is not None
    assert local.replace(tzinfo=None) == datetime(2026, 3, 1)


def test_the_last_day_is_meant_with_all_its_hours() -> None:
    assert read_moment("2026-03-01", "--until", end=True).replace(tzinfo=None) == datetime(2026, 3, 2)
    assert read_moment("2026-03-01T00:00", "--until", end=True).replace(tzinfo=None) == datetime(2026, 3, 1)


@pytest.mark.parametrize(
    "text", ["", "h", "-2h", "2 years", "2026-13-01", "2026-03-01T25:00", "999999999w", "99999-01-01"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="which is no time"):
        read_moment(text, "--since")
