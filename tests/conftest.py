"""What every test may use: a home of its own, and the real model that the demo uses."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.models.demo import ensure_demo_model
from app.models.library import ModelLibrary
from app.paths import Home
from tests.held_up_loops import Waits, watched
from tests.warm import starting_cold, starting_warm

CACHE = Path(os.environ.get("SHARDBOARD_TEST_CACHE") or Path(__file__).parent.parent / ".cache" / "tests")
"""Kept between runs, so that the demo's model is fetched once."""
INDEX = "model.safetensors.index.json"
SHORT = 6
NO_FILES = ("cluster", "control", "jobs", "launchers")
"""Rooms of tests during which no loop may ask for a file."""


def pytest_collection_finish() -> None:
    """No collection of garbage looks at what was imported: half a million objects, a third of a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def warm() -> Iterator[None]:
    """Agents and inspecting children of all tests start in a moment."""
    with starting_warm():
        yield


@pytest.fixture(scope="session")
def waits() -> Iterator[Waits]:
    with watched() as found:
        yield found


@pytest.fixture(autouse=True)
def loops_never_wait(waits: Waits, request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test has the app do, it does not wait for the disk on a loop's thread: not for registry and library,
    and where agents are started and jobs are done for no file either."""
    yield
    found = waits.taken()
    held_up = found.asked + (found.files if request.path.parent.name in NO_FILES else [])
    assert not held_up, f"{len(held_up)} times a loop waited for the disk, first here:\n{held_up[0]}"


@pytest.fixture(scope="session", autouse=True)
def unmeasured() -> None:
    """Agents do not spend their first half minute on measuring how fast they are, except where that is the question."""
    os.environ["SHARDBOARD_SPEED"] = "0"


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that the test starts measure how fast they are."""
    monkeypatch.delenv("SHARDBOARD_SPEED")


@pytest.fixture(autouse=True)
def cold(request: pytest.FixtureRequest) -> Iterator[None]:
    """For a test that is marked so, they start as users start them."""
    if request.node.get_closest_marker("cold") is None:
        yield
    else:
        with starting_cold():
            yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A fresh state folder, also for programs that the test starts."""
    monkeypatch.setenv("SHARDBOARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MODEL_CACHE_DIR", raising=False)
    monkeypatch.delenv("SHARDBOARD_DATABASE", raising=False)
    return Home.find().create()


@pytest.fixture(scope="session")
def smollm() -> Path:
    """The folder of SmolLM2-135M-Instruct as Hugging Face files (float32, from the demo's GGUF)."""
    return ensure_demo_model(ModelLibrary(CACHE / "models"), dequantize=True).path


@pytest.fixture(scope="session")
def short_smollm(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first six of its layers as a model: real text and its pace, for tests that do not read what it says."""
    folder = tmp_path_factory.mktemp("short") / "short-smollm"
    folder.mkdir()
    index = json.loads((smollm / INDEX).read_text())
    kept = {name: file for name, file in index["weight_map"].items() if layer_of(name) < SHORT}
    for path in smollm.iterdir():
        if path.name in kept.values():
            (folder / path.name).symlink_to(path)
        elif path.suffix != ".safetensors":
            shutil.copy(path, folder)
    (folder / INDEX).write_text(json.dumps({**index, "weight_map": kept}))
    settings = json.loads((smollm / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": SHORT}))
    return folder


def layer_of(tensor: str) -> int:
    """The number in a tensor's name; -1 for what stands at an end of the model."""
    return next((int(part) for part in tensor.split(".") if part.isdecimal()), -1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 64 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root may mount a small tmpfs")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", mount], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)
