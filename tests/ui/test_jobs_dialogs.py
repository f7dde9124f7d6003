"""The dialogs that start jobs: what they preview, what they refuse, what they start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

from app.jobs.works import AddWork, CutWork
from app.paths import Home
from app.registry.records import JobStatus
from app.ui.board.panes.library_pane import LibraryPane
from app.ui.board.state.board_model import BoardModel
from app.ui.jobs.add_model_dialog import AddModelDialog
from app.ui.jobs.cut_dialog import CutDialog
from app.ui.jobs.cut_preview import CutPreview, CutWish, ShardPreview, preview_cut
from app.ui.jobs.jobs_notices import JobNotices
from app.ui.jobs.model_source import SourceLook
from app.ui.jobs.shard_previews import ShardPreviews
from app.ui.jobs.shown_job import ShownJob
from app.ui.lists import Lists
from app.ui.theme import ThemeKeeper
from app.ui.workbench import Workbench
from tests.tiny_model import make_model
from tests.ui.simulated import MB, model

SECONDS = 20_000


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model("llama", folder, num_hidden_layers=4)
    return folder


@pytest.fixture
def stocked(workbench: Workbench) -> Workbench:
    """The library seems to hold two models."""
    workbench.cluster.take_lists(Lists(None, (model("alpha"), model("beta", layers=3)), None))
    return workbench


@pytest.fixture
def cut(stocked: Workbench, qtbot: QtBot, tmp_path: Path) -> CutDialog:
    dialog = CutDialog(stocked, "alpha")
    keep(qtbot, dialog)
    dialog.form.output.setText(str(tmp_path / "out"))
    dialog.show()
    return dialog


def keep(qtbot: QtBot, dialog: QDialog) -> None:
    """Leave it to the test's end, not to its own, to delete a dialog."""
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)
    qtbot.addWidget(dialog)


def previewed(qtbot: QtBot, dialog: CutDialog) -> CutPreview:
    qtbot.waitUntil(lambda: dialog.preview is not None, timeout=SECONDS)
    assert dialog.preview is not None
    return dialog.preview


def looked(qtbot: QtBot, dialog: AddModelDialog) -> SourceLook:
    qtbot.waitUntil(lambda: dialog.look is not None, timeout=SECONDS)
    assert dialog.look is not None
    return dialog.look


def test_a_number_of_shards_is_previewed_with_sizes_and_free_space(cut: CutDialog, qtbot: QtBot) -> None:
    cut.form.count.setValue(3)
    assert not cut.form.cut.isEnabled()
    preview = previewed(qtbot, cut)
    assert [(shard.start, shard.end) for shard in preview.shards] == [(0, 4), (4, 8), (8, 12)]
    assert preview.shards[0].nbytes == 480 * MB
    assert cut.form.shards.rowCount() == 3 and len(cut.form.bar.pieces()) == 3
    widths = [piece.width() for piece in cut.form.bar.pieces()]
    assert widths[0] == pytest.approx(widths[2]) and widths[0] > widths[1]
    assert cut.form.output_note.text().startswith("Needs 1.4 GB · ") and cut.form.cut.isEnabled()
    assert cut.form.count.maximum() == 12


def test_layers_are_checked_while_they_are_typed(cut: CutDialog, qtbot: QtBot) -> None:
    previewed(qtbot, cut)
    cut.form.by_layers.setChecked(True)
    assert cut.form.layers.text() == "0-5,6-11" and cut.form.layers.isVisible() and not cut.form.count.isVisible()
    for text, wrong in (("0-5,7-11", "layer 6"), ("0-5;6-11", "no range of layers"), ("0-20", "past the last")):
        cut.form.layers.setText(text)
        preview = previewed(qtbot, cut)
        assert preview.shards_error is not None and wrong in cut.form.shards_note.text()
        assert cut.form.shards_note.is_error and not cut.form.cut.isEnabled() and cut.form.shards.rowCount() == 0
    cut.form.layers.setText("0-1,2-11")
    assert [shard.end for shard in previewed(qtbot, cut).shards] == [2, 12]
    assert not cut.form.shards_note.is_error and cut.form.cut.isEnabled()


def test_a_folder_that_cannot_be_used_is_told_at_the_field(cut: CutDialog, qtbot: QtBot, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine" / "shard_0").mkdir(parents=True)
    for folder, wrong in (("", "No folder"), ("here", "no full path"), (str(tmp_path / "file"), "is a file"),
                          (str(tmp_path / "mine"), "is no shard that Shardboard has written")):  # fmt: skip
        cut.form.output.setText(folder)
        assert previewed(qtbot, cut).folder_error is not None
        assert wrong in cut.form.output_note.text() and "--" not in cut.form.output_note.text()
        assert not cut.form.cut.isEnabled()


def test_too_small_a_disk_is_told_before_anything_begins(tmp_path: Path) -> None:
    enormous = model("enormous", layer_bytes=10**15)
    preview = preview_cut(CutWish(enormous, 2, str(tmp_path / "not" / "there")))
    assert preview.folder_error is not None and preview.folder_error.kind == "disk" and not preview.is_possible
    assert preview.free is not None and preview.needed > 12 * 10**15
    assert not (tmp_path / "not").exists()


def test_accepting_starts_a_job_with_what_was_previewed(cut: CutDialog, qtbot: QtBot, tmp_path: Path) -> None:
    workbench = cut._workbench
    previewed(qtbot, cut)
    cut.form.register.setChecked(False)
    cut.form.cut.click()
    (job,) = workbench.jobs.jobs
    assert isinstance(job, ShownJob) and job.view.title == "Cut alpha into 2 shards"
    workbench.jobs.close()
    qtbot.waitUntil(lambda: job.is_over, timeout=SECONDS)
    assert not (tmp_path / "out").exists()


def test_another_model_brings_its_own_place_unless_the_user_chose_one(stocked: Workbench, qtbot: QtBot) -> None:
    dialog = CutDialog(stocked)
    keep(qtbot, dialog)
    assert dialog.form.output.text().endswith("alpha")
    dialog.form.model.setCurrentIndex(1)
    assert dialog.form.output.text().endswith("beta") and dialog.form.count.maximum() == 3
    previewed(qtbot, dialog)


def test_a_folder_that_is_not_in_the_library_can_be_cut(
    stocked: Workbench, qtbot: QtBot, tiny: Path, tmp_path: Path
) -> None:
    dialog = CutDialog(stocked)
    keep(qtbot, dialog)
    dialog.take_folder(str(tiny))
    qtbot.waitUntil(lambda: dialog.description is not None and dialog.description.name == "tiny", timeout=SECONDS)
    dialog.form.output.setText(str(tmp_path / "out"))
    assert len(previewed(qtbot, dialog).shards) == 2
    dialog.accept()
    (job,) = stocked.jobs.jobs
    assert isinstance(job, ShownJob) and isinstance(job.work, CutWork)
    assert (job.work.name_or_path, job.work.output_dir) == (str(tiny), tmp_path / "out")
    stocked.jobs.close()


def test_a_folder_without_a_model_is_refused_at_the_field(stocked: Workbench, qtbot: QtBot, tmp_path: Path) -> None:
    dialog = CutDialog(stocked)
    keep(qtbot, dialog)
    dialog.take_folder(str(tmp_path))
    qtbot.waitUntil(lambda: dialog.form.model_note.is_error, timeout=SECONDS)
    assert "config.json" in dialog.form.model_note.text()


@pytest.mark.parametrize("force_py", [False, True])
def test_the_preview_table_is_sound(theme: ThemeKeeper, qtmodeltester: ModelTester, force_py: bool) -> None:
    shards = ShardPreviews(theme)
    qtmodeltester.check(shards, force_py=force_py)
    shards.show_rows((ShardPreview(0, 0, 4, 100), ShardPreview(1, 4, 5, 50)))
    assert [shards.index(1, column).data() for column in range(3)] == ["shard_1", "4", "50 bytes"]
    shards.show_rows(())
    assert shards.rowCount() == 0


def test_a_quantized_folder_is_recognised_and_one_that_cannot_be_run_refused(
    workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    dialog = AddModelDialog(workbench)
    keep(qtbot, dialog)
    config = tmp_path / "config.json"
    config.write_text('{"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}')
    dialog.source.setText(str(tmp_path))
    look = looked(qtbot, dialog)
    assert "a model in AWQ, 4 bits, groups of 128. The library gets a copy, which runs as it is stored" in look.text
    config.write_text('{"quantization_config": {"quant_method": "quanto"}}')
    dialog.source.setText(str(tmp_path) + "/")
    assert "the method is" in str(looked(qtbot, dialog).source_error)


def test_a_source_is_recognised_and_a_name_suggested(workbench: Workbench, qtbot: QtBot, tiny: Path) -> None:
    dialog = AddModelDialog(workbench)
    keep(qtbot, dialog)
    dialog.show()
    dialog.source.setText("some/Model-7B")
    look = looked(qtbot, dialog)
    assert (look.kind, look.suggested) == ("hub", "Model-7B")
    assert dialog.revision.isVisible() and dialog.name.placeholderText() == "Model-7B" and dialog.add.isEnabled()
    dialog.source.setText(str(tiny))
    assert looked(qtbot, dialog).kind == "folder"
    assert not dialog.revision.isVisible() and "stay where they are" in dialog.source_note.text()
    dialog.name.setText("con")
    assert looked(qtbot, dialog).name_error is not None
    assert dialog.name_note.is_error and not dialog.add.isEnabled()
    dialog.source.setText("/nothing/like/this")
    assert looked(qtbot, dialog).source_error is not None and "no such path" in dialog.source_note.text()


def test_a_gguf_file_runs_as_it_is_stored_unless_floats_are_asked_for(
    workbench: Workbench, qtbot: QtBot, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" + bytes(1000))
    dialog = AddModelDialog(workbench, source=str(tiny))
    keep(qtbot, dialog)
    dialog.show()
    assert looked(qtbot, dialog).kind == "folder" and not dialog.dequantize.isVisible()
    dialog.dequantize.setChecked(True)  # of what was entered before: counts for a GGUF file alone
    dialog.source.setText("some/Model-7B")
    assert looked(qtbot, dialog).kind == "hub" and dialog.revision.isVisible() and not dialog.dequantize.isVisible()
    dialog.source.setText(str(file))
    assert looked(qtbot, dialog).kind == "gguf" and dialog.dequantize.isVisible() and not dialog.revision.isVisible()
    assert "runs as it is stored" in dialog.source_note.text()
    for floats in (True, False):
        dialog.dequantize.setChecked(floats)
        dialog.accept()
        work = workbench.jobs.jobs[-1].view.work
        assert isinstance(work, AddWork) and work.dequantize is floats
    workbench.jobs.close()


def test_a_name_that_is_taken_is_told_before_the_job(
    workbench: Workbench, qtbot: QtBot, home: Home, tiny: Path, tmp_path: Path
) -> None:
    job = workbench.jobs.add_model(str(tiny))
    qtbot.waitUntil(lambda: job.is_over, timeout=SECONDS)
    dialog = AddModelDialog(workbench, source=str(tiny))
    keep(qtbot, dialog)
    assert looked(qtbot, dialog).name_error is not None and "already" in dialog.name_note.text()
    dialog.name.setText("another")
    assert looked(qtbot, dialog).is_possible
    dialog.accept()
    assert workbench.jobs.jobs[-1].view.title == "Add another"
    workbench.jobs.close()


def test_dropped_paths_become_jobs_and_what_is_no_model_says_why(
    workbench: Workbench, qtbot: QtBot, tiny: Path, tmp_path: Path
) -> None:
    copy, empty = shutil.copytree(tiny, tmp_path / "copy"), tmp_path / "empty"
    empty.mkdir()
    notices, library = JobNotices(workbench, workbench), LibraryPane(BoardModel(workbench, workbench))
    qtbot.addWidget(library)
    library.model.paths_dropped.emit((copy, empty))
    qtbot.waitUntil(lambda: len(workbench.jobs.jobs) == 2 and not workbench.jobs.busy(), timeout=SECONDS)
    assert [job.view.title for job in workbench.jobs.jobs] == ["Add copy", "Add empty"]
    assert [job.view.status for job in workbench.jobs.jobs] == [JobStatus.DONE, JobStatus.FAILED]
    (banner,) = workbench.notices.banners
    assert banner.text.startswith("Add empty: ") and "config.json" in banner.text
    assert notices.parent() is workbench
