"""The library: adding, finding and removing models."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from app.errors import BadInput, Cancelled, ModelError
from app.models.library import ModelLibrary
from tests.worker_agent.tiny_models import make_model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny llama"
    make_model("llama", folder, num_hidden_layers=2)
    return folder


@pytest.fixture(scope="module")
def filled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    ModelLibrary(folder).add(str(source), name="Tiny")
    return folder


@pytest.fixture
def library(filled: Path, tmp_path: Path) -> ModelLibrary:
    """A library with one model, 'Tiny'."""
    return ModelLibrary(Path(shutil.copytree(filled, tmp_path / "library")))


def test_a_folder_is_used_in_place(library: ModelLibrary, source: Path) -> None:
    description = library.get("Tiny")
    assert description.path == source.resolve()
    assert sorted(path.name for path in (library.folder / "Tiny").iterdir()) == ["model.json"]
    assert library.list() == (description,)


def test_names_are_found_whatever_their_case_and_taken_once(library: ModelLibrary, source: Path) -> None:
    assert library.get("tiny") == library.get("TINY")
    with pytest.raises(BadInput, match="There is a model named 'TINY' already"):
        library.add_job(str(source), name="TINY")


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "con", "NUL.txt", "x" * 101, "ends.", "ümlaut"])
def test_names_that_no_folder_can_have(library: ModelLibrary, source: Path, name: str) -> None:
    with pytest.raises(BadInput, match="cannot be a model's name"):
        library.add_job(str(source), name=name)


def test_removing_leaves_the_users_folder(library: ModelLibrary, source: Path) -> None:
    library.digests(library.get("Tiny")).parts()
    library.remove("tiny")
    assert library.list() == ()
    assert (source / "model.safetensors").is_file()
    assert not (library.folder / "Tiny").exists()
    with pytest.raises(ModelError, match="no model named 'tiny'"):
        library.remove("tiny")


def test_an_unknown_name_is_answered_with_the_known(library: ModelLibrary) -> None:
    with pytest.raises(ModelError, match=r"no model named 'other'.*Known are: Tiny"):
        library.get("other")
    with pytest.raises(BadInput, match="'other' is neither a model of the library nor a path"):
        library.describe("other")


def test_a_folder_can_be_described_without_being_added(library: ModelLibrary, source: Path) -> None:
    description = library.describe(str(source))
    assert description.name == "tiny llama"
    assert len(library.list()) == 1


def test_a_model_that_cannot_be_used_is_not_added(tmp_path: Path, source: Path) -> None:
    shutil.copytree(source, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").unlink()
    library = ModelLibrary(tmp_path / "library")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        library.add(str(tmp_path / "broken"))
    assert library.list() == ()


def test_a_damaged_description_does_not_hide_the_others(
    library: ModelLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    (library.folder / "Bad").mkdir()
    (library.folder / "Bad" / "model.json").write_text("{")
    assert [model.name for model in library.list()] == ["Tiny"]
    assert "'Bad'" in caplog.text
    with pytest.raises(ModelError, match="The description of 'Bad'"):
        library.get("Bad")


def test_digests_are_kept_beside_the_description(library: ModelLibrary) -> None:
    parts = library.digests(library.get("Tiny")).parts()
    assert (library.folder / "Tiny" / "digests.json").is_file()
    assert ModelLibrary(library.folder).digests(library.get("Tiny")).parts() == parts


def test_adding_can_be_cancelled_from_another_thread(tmp_path: Path, source: Path) -> None:
    library = ModelLibrary(tmp_path / "library")
    job = library.add_job(str(source), name="x", on_progress=lambda _: threading.Thread(target=job.cancel).start())
    with pytest.raises(Cancelled):
        job.run()
    assert library.list() == ()
    assert library.add(str(source), name="x").name == "x"
