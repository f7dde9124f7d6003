"""Cutting: what is written equals the model tensor for tensor, and nothing half-written is ever left."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from blake3 import blake3

from app.children.work import JobProgress
from app.errors import BadInput, Cancelled, DiskFullError, ModelError, ShardboardError
from app.models.description import ModelDescription
from app.sharding.cut_process import CutRequest, cut
from app.sharding.cutting import CuttingJob
from app.sharding.output_folder import check_output, clear_abandoned, discard, new_workplace
from app.sharding.plan import divide
from app.sharding.shard_folder import ShardTensor, read_metadata, shard_folders
from tests.models.described import described, ignore_progress, tensors_of
from tests.waiting import wait_until
from tests.worker_agent.tiny_models import make_model

CUTS = """
import sys
from pathlib import Path
import msgspec
from app.models.description import ModelDescription
from app.sharding.cutting import CuttingJob
from app.sharding.plan import divide
description = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ModelDescription)
CuttingJob(description, divide(description, 2), Path(sys.argv[2])).run()
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelDescription:
    folder = tmp_path_factory.mktemp("llama")
    make_model("llama", folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return described(folder)


def cut_here(description: ModelDescription, shards: int, output_dir: Path, **changes: Any) -> list[Path]:
    """Cut in this process, as the child does. Returns the shards' folders."""
    workplace = new_workplace(output_dir)
    workplace.mkdir(parents=True)
    request = CutRequest(
        description=description, ranges=divide(description, shards), workplace=str(workplace), **changes
    )
    return [Path(shard.folder) for shard in cut(request, ignore_progress).shards]


def all_tensors(folder: Path) -> list[ShardTensor]:
    """Of all shards in a folder, as their metadata has them."""
    return [tensor for shard in shard_folders(folder) for tensor in read_metadata(shard).tensors]


def assert_equal_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "qwen3"])
def test_reassembled_shards_equal_the_model(model_type: str, shards: int, tmp_path: Path) -> None:
    make_model(model_type, tmp_path / "model")
    description = described(tmp_path / "model")
    cut_here(description, shards, tmp_path / "out")
    assert_equal_tensors(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "model"))
    kept = {(tensor.part, tensor.layer, tensor.name) for tensor in all_tensors(tmp_path / "out")}
    assert kept == {(part.kind, part.index, each.name) for part in description.parts for each in part.tensors}


def test_a_sharded_checkpoint_in_bfloat16_is_cut_alike(tmp_path: Path) -> None:
    model = make_model("llama", tmp_path / "model", tie_word_embeddings=False)
    for path in (tmp_path / "model").glob("*.safetensors"):
        path.unlink()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model", max_shard_size="60KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 3
    description = described(tmp_path / "model")
    assert description.dtype == "bfloat16"
    cut_here(description, 3, tmp_path / "out")
    assert_equal_tensors(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "model"))


def test_a_large_shard_gets_several_files_and_an_index(llama: ModelDescription, tmp_path: Path) -> None:
    (folder,) = cut_here(llama, 1, tmp_path, max_file_bytes=llama.weight_bytes // 3)
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(weight_map.values()) == {path.name for path in folder.glob("*.safetensors")}
    assert len(set(weight_map.values())) > 1
    assert_equal_tensors(tensors_of(folder), tensors_of(llama.path))
    assert {tensor.file for tensor in read_metadata(folder).tensors} == set(weight_map.values())


def test_a_cut_model_that_is_one_shard_loads_in_transformers(llama: ModelDescription, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    (folder,) = cut_here(llama, 1, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(loaded.model.norm.weight, tensors_of(llama.path)["model.norm.weight"])


def test_a_shards_folder_says_what_it_is(llama: ModelDescription, tmp_path: Path) -> None:
    outcome = CuttingJob(llama, ((0, 2), (2, 5), (5, 7)), tmp_path / "out").run()
    assert [(shard.start_layer, shard.end_layer) for shard in outcome.shards] == [(0, 2), (2, 5), (5, 7)]
    plain = json.loads((tmp_path / "out" / "shard_1" / "metadata.json").read_text())
    assert {name: plain[name] for name in list(plain) if name != "tensors"} == {
        "format": 1,
        "model_name": "tiny",
        "shard_id": 1,
        "total_shards": 3,
        "start_layer": 2,
        "end_layer": 5,
        "end_layer_is": "exclusive",
        "total_layers": 7,
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "dtype": "float32",
    }
    assert {tensor["layer"] for tensor in plain["tensors"]} == {2, 3, 4}
    files = [sorted(path.name for path in (tmp_path / "out" / f"shard_{number}").iterdir()) for number in range(3)]
    always = ["config.json", "metadata.json", "model.safetensors"]
    assert files[1] == always
    assert files[0] == sorted([*always, "chat_template.jinja", "generation_config.json", "tokenizer.json"])
    assert files[2] == sorted([*always, "generation_config.json"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["shard_0", "shard_1", "shard_2"]


def test_the_metadata_has_the_hash_of_each_tensor(llama: ModelDescription, tmp_path: Path) -> None:
    cut_here(llama, 2, tmp_path)
    tensors = tensors_of(llama.path)
    for tensor in all_tensors(tmp_path):
        assert tensor.blake3 == blake3(tensors[tensor.name].numpy().tobytes()).hexdigest(), tensor.name


@pytest.mark.parametrize("damage", ["{", "{}", '{"format": 2}', "[]"])
def test_damaged_metadata_is_refused(llama: ModelDescription, tmp_path: Path, damage: str) -> None:
    (folder,) = cut_here(llama, 1, tmp_path)
    (folder / "metadata.json").write_text(damage)
    with pytest.raises(ModelError, match=r"metadata\.json cannot be used"):
        read_metadata(folder)


# --- the output folder ---


def test_cutting_again_replaces_the_older_shards_of_the_model(llama: ModelDescription, tmp_path: Path) -> None:
    cut_here(llama, 4, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    CuttingJob(llama, divide(llama, 2), tmp_path).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "shard_0", "shard_1"]
    assert read_metadata(tmp_path / "shard_1").total_shards == 2


def test_folders_of_others_are_not_overwritten(llama: ModelDescription, tmp_path: Path) -> None:
    (tmp_path / "shard_0").mkdir()
    (tmp_path / "shard_0" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="is no shard that Shardboard has written"):
        CuttingJob(llama, divide(llama, 2), tmp_path).run()
    assert [path.name for path in tmp_path.rglob("*")] == ["shard_0", "thesis.txt"]


def test_shards_of_another_model_are_not_overwritten(llama: ModelDescription, tmp_path: Path) -> None:
    cut_here(llama, 2, tmp_path)
    with pytest.raises(BadInput, match="is a shard of 'tiny', so it is not overwritten by one of 'other'"):
        check_output(tmp_path, "other")


def test_a_file_in_the_way(llama: ModelDescription, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        CuttingJob(llama, divide(llama, 2), tmp_path / "out").run()


def test_a_cutting_that_died_while_renaming_is_undone(llama: ModelDescription, tmp_path: Path) -> None:
    cut_here(llama, 3, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    # As it looks when the new shard_0 of two is in place and the process dies.
    workplace = new_workplace(tmp_path)
    (workplace / "replaced").mkdir(parents=True)
    (workplace / "count").write_text("2")
    for number in range(3):
        (tmp_path / f"shard_{number}").rename(workplace / "replaced" / f"shard_{number}")
    (tmp_path / "shard_0").mkdir()
    (workplace / "shard_1").mkdir()
    discard(workplace)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard_0", "shard_1", "shard_2"]


def test_what_a_dead_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    import os

    dead, living = tmp_path / ".cutting-4194999-abc", tmp_path / f".cutting-{os.getpid()}-abc"
    dead.mkdir()
    living.mkdir()
    clear_abandoned(tmp_path)
    assert (dead.exists(), living.exists()) == (False, True)


# --- ending early ---


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> ModelDescription:
    """A model that takes long enough to be interrupted: 256 MB, written twice because the embedding is tied."""
    folder = tmp_path_factory.mktemp("large")
    make_model("llama", folder, vocab_size=1_000_000)
    return described(folder, "large")


@pytest.mark.signals
@pytest.mark.parametrize("kill", [False, True], ids=["cancelled", "killed"])
def test_nothing_is_left_when_the_child_is(large: ModelDescription, tmp_path: Path, kill: bool) -> None:
    import psutil

    seen = threading.Event()

    def on_progress(progress: JobProgress) -> None:
        if not seen.is_set() and progress.done_bytes:
            assert list((tmp_path / "deep" / "out").glob(".cutting-*/shard_0/model.safetensors"))
            seen.set()
            if kill:
                assert job.pid is not None
                psutil.Process(job.pid).kill()
            else:
                job.cancel()

    job = CuttingJob(large, divide(large, 2), tmp_path / "deep" / "out", on_progress=on_progress)
    expected = ShardboardError if kill else Cancelled
    with pytest.raises(expected, match="signal 9|ended with code" if kill else "was cancelled"):
        job.run()
    assert seen.is_set()
    assert job.pid is not None and not psutil.pid_exists(job.pid)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_the_program_that_cuts_is_killed(large: ModelDescription, tmp_path: Path) -> None:
    (tmp_path / "description").write_bytes(msgspec.json.encode(large))
    program = subprocess.Popen([sys.executable, "-c", CUTS, str(tmp_path / "description"), str(tmp_path / "out")])
    wait_until(lambda: list((tmp_path / "out").glob(".cutting-*/shard_0/*")))
    program.kill()
    program.wait()
    wait_until(lambda: list((tmp_path / "out").iterdir()) == [], 20)


def test_a_job_cancelled_before_it_starts_starts_nothing(llama: ModelDescription, tmp_path: Path) -> None:
    job = CuttingJob(llama, divide(llama, 2), tmp_path / "out")
    job.cancel()
    with pytest.raises(Cancelled):
        job.run()
    assert job.pid is None
    assert not (tmp_path / "out").exists()


def test_progress_tells_bytes_speed_and_time_left(llama: ModelDescription, tmp_path: Path) -> None:
    seen: list[JobProgress] = []
    CuttingJob(llama, divide(llama, 2), tmp_path, on_progress=seen.append).run()
    last = seen[-1]
    tied = llama.end("tied")
    assert tied is not None
    assert last.done_bytes == last.total_bytes == llama.weight_bytes + tied.nbytes  # it goes to both shards
    assert last.bytes_per_second > 0
    assert last.seconds_left == 0


def test_weights_that_changed_since_are_refused(tmp_path: Path) -> None:
    make_model("llama", tmp_path / "model", num_hidden_layers=2)
    description = described(tmp_path / "model")
    make_model("llama", tmp_path / "model", num_hidden_layers=2, tie_word_embeddings=False)
    with pytest.raises(ModelError, match="have changed since it was added"):
        CuttingJob(description, divide(description, 2), tmp_path / "out").run()


def test_the_disk_is_checked_before_anything_is_written(
    llama: ModelDescription, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(DiskFullError, match=r"needs .* MB at .*out, and 1 MB are free there"):
        CuttingJob(llama, divide(llama, 2), tmp_path / "out").run()
    assert not (tmp_path / "out").exists()


def test_other_failures_of_the_system_are_not_taken_for_a_full_disk(llama: ModelDescription, tmp_path: Path) -> None:
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    (workplace / "shard_0").write_text("in the way")
    request = CutRequest(description=llama, ranges=divide(llama, 2), workplace=str(workplace))
    with pytest.raises(OSError) as caught:
        cut(request, ignore_progress)
    assert caught.value.errno == errno.EEXIST
