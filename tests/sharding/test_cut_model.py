"""The whole way of `shard_model`: a name or path, options, shard folders and their records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import BadInput
from app.models.library import ModelLibrary
from app.registry import Registry
from app.sharding.cut import CPU_NOTE, cut_model, register_shards
from tests.worker_agent.tiny_models import make_model


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ModelLibrary:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    make_model("llama", folder)
    library = ModelLibrary(tmp_path_factory.mktemp("library"))
    library.add(str(folder))
    return library


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry.open(tmp_path / "registry.sqlite3")
    yield registry
    registry.close()


def test_shards_are_written_and_noted_for_the_node(library: ModelLibrary, registry: Registry, tmp_path: Path) -> None:
    node = registry.nodes.add(
        hostname="a", ip_address="127.0.0.1", port=1, public_key="x" * 40, agent_id="a1", capacities={}
    )
    result = cut_model(library, "tiny", num_shards=3, output_dir=tmp_path / "out")
    registered = register_shards(registry, result.model_name, result.shards, node.id)
    records = registry.shards.list(model_name="tiny")
    assert tuple(record.id for record in records) == registered
    assert [(record.shard_id, record.start_layer, record.end_layer, record.path) for record in records] == [
        (shard.shard_id, shard.start_layer, shard.end_layer, shard.folder) for shard in result.shards
    ]
    assert {(record.node_id, record.is_loaded) for record in records} == {(node.id, False)}


def test_cutting_again_replaces_the_records(library: ModelLibrary, registry: Registry, tmp_path: Path) -> None:
    for result in (
        cut_model(library, "tiny", num_shards=3, output_dir=tmp_path / "out"),
        cut_model(library, "tiny", num_shards=2, output_dir=tmp_path / "elsewhere"),
        cut_model(library, "tiny", layers="0-1,2-6", output_dir=tmp_path / "out"),
    ):
        register_shards(registry, result.model_name, result.shards)
    found = [(Path(record.path or "").parent.name, record.start_layer) for record in registry.shards.list()]
    assert sorted(start for folder, start in found if folder == "out") == [0, 2]
    assert len([folder for folder, _ in found if folder == "elsewhere"]) == 2


def test_the_device_is_checked_and_cutting_is_said_to_run_on_the_cpu(library: ModelLibrary, tmp_path: Path) -> None:
    result = cut_model(library, "tiny", num_shards=2, output_dir=tmp_path / "out", device="cuda:0")
    assert result.note == CPU_NOTE
    assert result.registered == ()
    with pytest.raises(BadInput, match="'gpu' is no device"):
        cut_model(library, "tiny", num_shards=2, output_dir=tmp_path / "out", device="gpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Neither a number of shards nor ranges"),
        ({"num_shards": 3, "layers": "0-3,4-6"}, "--num_shards says 3, and --layers gives 2 ranges"),
        ({"num_shards": 8}, "has 7 layers and can be cut into 7 shards at most, not 8"),
        ({"layers": "0-5"}, "No range holds layer 6"),
    ],
)
def test_options_that_do_not_fit(library: ModelLibrary, tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        cut_model(library, "tiny", output_dir=tmp_path / "out", **options)  # type: ignore[arg-type]


def test_no_such_model(library: ModelLibrary, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither a model of the library nor a path"):
        cut_model(library, "nothing", num_shards=2, output_dir=tmp_path / "out")
