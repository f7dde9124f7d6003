"""A part's bytes and its digest, which is kept until the files change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import Cancelled, ModelError
from app.models.description import ModelDescription
from app.models.digests import PartDigests
from app.models.part_bytes import part_bytes
from tests.models.described import described, tensors_of
from tests.worker_agent.tiny_models import make_model


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> ModelDescription:
    folder = tmp_path_factory.mktemp("model")
    make_model("llama", folder, num_hidden_layers=3)
    return described(folder)


def content(description: ModelDescription, index: int) -> bytes:
    tensors = tensors_of(description.path)
    return b"".join(tensors[tensor.name].numpy().tobytes() for tensor in description.parts[index].tensors)


def test_a_parts_bytes_are_its_tensors_one_after_another(description: ModelDescription) -> None:
    for index, part in enumerate(description.parts):
        pieces = list(part_bytes(description.path, part, chunk=1000))
        assert b"".join(pieces) == content(description, index)
        assert max(map(len, pieces)) <= 1000


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_range_can_be_read(description: ModelDescription, data: st.DataObject) -> None:
    part = description.layers[1]
    offset = data.draw(st.integers(0, part.nbytes))
    length = data.draw(st.integers(0, part.nbytes))
    whole = content(description, description.parts.index(part))
    read = b"".join(part_bytes(description.path, part, offset, length, chunk=4096))
    assert read == whole[offset : offset + length]


def test_digests_are_blake3_of_the_content(description: ModelDescription) -> None:
    parts = PartDigests(description).parts()
    for index, part in enumerate(parts):
        assert part.digest == blake3(content(description, index)).hexdigest()
        assert part.nbytes == description.parts[index].nbytes


def test_digests_are_computed_once_and_survive_a_restart(description: ModelDescription, tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    read: list[int] = []
    first = PartDigests(description, cache).parts(on_progress=lambda progress: read.append(progress.done_bytes))
    assert read[-1] == description.weight_bytes
    read.clear()
    assert PartDigests(description, cache).parts(on_progress=lambda progress: read.append(progress.done_bytes)) == first
    assert not read


def test_a_damaged_cache_is_made_anew(description: ModelDescription, tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    cache.write_text("{ damaged")
    parts = PartDigests(description, cache).parts()
    assert PartDigests(description, cache).parts() == parts
    assert cache.read_text() != "{ damaged"


def test_a_cancelled_computation_keeps_what_it_has(description: ModelDescription, tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    asked = iter([False] * 12 + [True] * 1000)
    with pytest.raises(Cancelled):
        PartDigests(description, cache).parts(cancelled=lambda: next(asked))
    assert b"tied/0" in cache.read_bytes()


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    make_model("llama", tmp_path, num_hidden_layers=2)
    description = described(tmp_path)
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    with pytest.raises(ModelError, match="'tiny' have changed since it was added"):
        PartDigests(description).parts()


def test_a_file_that_became_shorter_is_noticed_while_reading(tmp_path: Path) -> None:
    make_model("llama", tmp_path, num_hidden_layers=2)
    description = described(tmp_path)
    with (tmp_path / "model.safetensors").open("rb+") as file:
        file.truncate(description.parts[-1].tensors[-1].offset)
    with pytest.raises(ModelError, match="shorter than it was"):
        list(part_bytes(tmp_path, description.parts[-1]))
