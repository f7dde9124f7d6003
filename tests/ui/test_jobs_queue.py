"""Long work in the window, with the real library and real child processes: cutting, adding, cancelling, closing."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from pytestqt.qtbot import QtBot

from app.errors import BadInput, DiskFullError, ModelError
from app.jobs.job import JobSnapshot
from app.models.description import ModelDescription
from app.models.library import ModelLibrary
from app.paths import Home
from app.registry import Registry
from app.registry.records import JobRecord, JobStatus
from app.ui.bridge import window_origin
from app.ui.jobs.qthreads import running
from app.ui.jobs.shown_job import ShownJob
from app.ui.workbench import Workbench
from tests.tiny_model import make_model
from tests.ui.jobs_support import children, files_in

SECONDS = 30_000


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with two models, inspected once: "tiny" and "large", which takes long enough to have a middle."""
    folder = tmp_path_factory.mktemp("models")
    make_model("llama", folder / "tiny", num_hidden_layers=4)
    make_model("llama", folder / "large", num_hidden_layers=2, vocab_size=1_600_000)  # 400 MB
    library = ModelLibrary(folder / "library")
    library.add(str(folder / "tiny"))
    library.add(str(folder / "large"))
    return folder


@pytest.fixture(autouse=True)
def stocked(home: Home, shelf: Path) -> None:
    for name in ("tiny", "large"):
        shutil.copytree(shelf / "library" / name, home.models / name)


@pytest.fixture(autouse=True)
def nothing_is_left_running(workbench: Workbench, qtbot: QtBot) -> Iterator[None]:
    yield
    workbench.jobs.close()
    finish(qtbot, *workbench.jobs.jobs)
    assert running() == []
    assert children() == []


def finish(qtbot: QtBot, *jobs: ShownJob) -> list[JobSnapshot]:
    qtbot.waitUntil(lambda: all(job.is_over for job in jobs), timeout=SECONDS)
    return [job.view for job in jobs]


def records(workbench: Workbench, qtbot: QtBot) -> list[JobRecord]:
    call = workbench.bridge.read(lambda registry: registry.jobs.list(), "reading jobs")
    with qtbot.waitSignal(call.done, timeout=SECONDS) as done:
        pass
    return list(done.args[0])


def is_copying(job: ShownJob) -> bool:
    return job.view.phase == "cutting" and job.view.total_bytes > 0


def test_a_model_is_cut_with_progress_and_says_where_its_shards_are(
    workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    job = workbench.jobs.cut("tiny", 3, tmp_path / "out")
    seen: list[JobSnapshot] = []
    job.changed.connect(lambda: seen.append(job.view))
    (view,) = finish(qtbot, job)
    assert (view.status, view.error) == (JobStatus.DONE, None)
    assert view.result.startswith("3 shards, ") and str(tmp_path / "out") in view.result
    assert view.folder == tmp_path / "out"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["shard_0", "shard_1", "shard_2"]
    assert view.fraction == 1.0 and any(each.phase == "cutting" and each.total_bytes > 0 for each in seen)
    assert view.started_at is not None and view.ended_at is not None and view.ended_at >= view.started_at


def test_shards_are_entered_in_the_registry_when_asked_and_the_job_is_written_down(
    workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    finish(qtbot, workbench.jobs.cut("tiny", "0-1,2-3", tmp_path / "out", register=True))
    call = workbench.bridge.read(lambda registry: registry.shards.list(model_name="tiny"), "reading shards")
    with qtbot.waitSignal(call.done) as done:
        pass
    assert sorted((shard.start_layer, shard.end_layer) for shard in done.args[0]) == [(0, 2), (2, 4)]
    qtbot.waitUntil(lambda: records(workbench, qtbot)[0].status is JobStatus.DONE, timeout=SECONDS)
    (record,) = records(workbench, qtbot)
    assert (record.kind, record.model_name, record.title) == ("cut", "tiny", "Cut tiny into 2 shards")
    assert record.details["layers"] == "0-1,2-3" and record.details["output_dir"] == str(tmp_path / "out")
    assert record.started_at is not None and record.completed_at is not None
    call = workbench.bridge.call(
        lambda controller, report: asyncio.to_thread(controller.runs.job, record.id), "reading"
    )
    with qtbot.waitSignal(call.done, timeout=SECONDS) as done:
        pass
    trace = done.args[0].trace
    assert trace.origin == window_origin() and trace.versions is not None and trace.took_us > 0
    cutting = next(phase for phase in trace.phases if phase.name == "cutting")
    assert cutting.total_bytes > 0 and 0 <= cutting.began_us <= cutting.ended_us <= trace.took_us


def test_a_cut_that_is_cancelled_in_the_middle_leaves_nothing_and_can_begin_anew(
    workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    job = workbench.jobs.cut("large", 2, out)
    qtbot.waitUntil(lambda: is_copying(job), timeout=SECONDS)
    assert len(children()) == 1 and len(files_in(out)) > 1
    job.cancel()
    assert job.view.is_ending
    (view,) = finish(qtbot, job)
    assert (view.status, view.error, view.can_retry) == (JobStatus.CANCELLED, None, True)
    assert files_in(out) == {"mine.txt": 4}
    assert children() == [] and running() == []
    again = job.retry()
    assert again is not None
    assert finish(qtbot, again)[0].status is JobStatus.DONE
    assert (out / "shard_1" / "metadata.json").is_file() and (out / "mine.txt").read_text() == "keep"


def test_cuts_run_one_after_another_in_the_order_they_were_asked_for(
    workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    order: list[tuple[int, JobStatus]] = []
    jobs = [workbench.jobs.cut("tiny", 2, tmp_path / f"out{number}") for number in range(3)]
    for job in jobs:
        job.changed.connect(lambda job=job: order.append((job.view.id, job.view.status)))
    jobs[1].cancel()
    views = finish(qtbot, *jobs)
    assert [view.status for view in views] == [JobStatus.DONE, JobStatus.CANCELLED, JobStatus.DONE]
    assert views[0].ended_at <= views[2].started_at
    assert not (tmp_path / "out1").exists()
    assert order.index((jobs[0].view.id, JobStatus.DONE)) < order.index((jobs[2].view.id, JobStatus.RUNNING))


def test_a_model_is_added_and_known_to_library_and_registry(workbench: Workbench, qtbot: QtBot, shelf: Path) -> None:
    cluster = workbench.cluster
    (view,) = finish(qtbot, workbench.jobs.add_model(str(shelf / "tiny"), name="my-tiny"))
    assert (view.status, view.model) == (JobStatus.DONE, "my-tiny")
    assert "4 layers" in view.result
    qtbot.waitUntil(lambda: cluster.model("my-tiny") is not None, timeout=SECONDS)
    (again,) = finish(qtbot, workbench.jobs.add_model(str(shelf / "tiny"), name="my-tiny"))
    assert again.status is JobStatus.FAILED and isinstance(again.error, BadInput)
    assert "already" in again.error.message


def test_changed_weights_and_a_bad_folder_are_told_as_they_are(
    workbench: Workbench, qtbot: QtBot, home: Home, tmp_path: Path
) -> None:
    description = home.models / "tiny" / "model.json"
    (home.models / "other").mkdir()
    other = msgspec.json.decode(description.read_bytes(), type=ModelDescription)
    moved = tuple(msgspec.structs.replace(stamp, mtime_ns=1) for stamp in other.files)
    other = msgspec.structs.replace(other, name="other", files=moved)
    (home.models / "other" / "model.json").write_bytes(msgspec.json.encode(other))
    file = tmp_path / "file"
    file.write_text("no folder")
    changed, bad, wrong = finish(
        qtbot,
        workbench.jobs.cut("other", 2, tmp_path / "out"),
        workbench.jobs.cut("tiny", 2, file),
        workbench.jobs.cut("tiny", "0-1,3", tmp_path / "out"),
    )
    assert isinstance(changed.error, ModelError) and "have changed" in changed.error.message
    assert isinstance(bad.error, BadInput) and "is a file" in bad.error.message
    assert isinstance(wrong.error, BadInput) and "layer 2" in wrong.error.message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 64 MB on which seven files fit."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root may mount a small tmpfs")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=7", "tmpfs", mount], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def test_a_full_disk_fails_the_job_and_leaves_the_folder_as_it_was(
    workbench: Workbench, qtbot: QtBot, small_disk: Path
) -> None:
    filled, foreseen = finish(
        qtbot,
        workbench.jobs.cut("tiny", 2, small_disk / "out"),
        workbench.jobs.cut("large", 2, small_disk / "out"),
    )
    assert isinstance(filled.error, DiskFullError) and "filled up while" in filled.error.message
    assert isinstance(foreseen.error, DiskFullError) and "are free there" in foreseen.error.message
    assert filled.can_retry and list(small_disk.iterdir()) == []


def test_closing_while_work_runs_ends_it_in_good_order_and_writes_it_down(
    workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    cutting = workbench.jobs.cut("large", 2, tmp_path / "out")
    waiting = workbench.jobs.cut("tiny", 2, tmp_path / "out2")
    qtbot.waitUntil(lambda: is_copying(cutting), timeout=SECONDS)
    workbench.jobs.close()
    assert [view.status for view in finish(qtbot, cutting, waiting)] == [JobStatus.CANCELLED] * 2
    assert running() == [] and children() == []
    assert not (tmp_path / "out").exists() and not (tmp_path / "out2").exists()
    assert {record.status for record in records(workbench, qtbot)} == {JobStatus.CANCELLED}
    late = workbench.jobs.cut("tiny", 2, tmp_path / "out3")
    assert late.view.status is JobStatus.CANCELLED


def test_a_job_that_waits_for_a_controller_that_never_opens_can_be_closed(
    quiet_workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    job = quiet_workbench.jobs.cut("tiny", 2, tmp_path / "out")
    assert job.view.status is JobStatus.QUEUED
    quiet_workbench.jobs.close()
    assert job.view.status is JobStatus.CANCELLED


def test_what_is_over_can_be_cleared_and_what_runs_stays(workbench: Workbench, qtbot: QtBot, tmp_path: Path) -> None:
    finish(qtbot, workbench.jobs.cut("nothing-like-this", 2, tmp_path))
    runs = workbench.jobs.cut("large", 2, tmp_path / "out")
    workbench.jobs.clear_finished()
    assert workbench.jobs.jobs == [runs] and not runs.is_over


def test_what_was_written_stays_in_the_registry(workbench: Workbench, qtbot: QtBot, tmp_path: Path) -> None:
    finish(qtbot, workbench.jobs.cut("nothing-like-this", 2, tmp_path))
    workbench.jobs.clear_finished()

    def failed(registry: Registry) -> list[JobRecord]:
        return registry.jobs.list(status=JobStatus.FAILED)

    call = workbench.bridge.read(failed, "reading")
    with qtbot.waitSignal(call.done) as done:
        pass
    assert [record.error is not None and "neither a model" in record.error for record in done.args[0]] == [True]
