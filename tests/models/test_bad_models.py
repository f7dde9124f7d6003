"""Folders that are no model: each is refused with what is wrong, before torch is imported where that is possible."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from app.errors import BadInput, ModelError
from app.models.checkpoint import read_checkpoint, weight_files
from tests.models.described import described
from tests.tiny_model import change_json
from tests.worker_agent.tiny_models import make_model


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    make_model("llama", tmp_path / "llama", num_hidden_layers=2)
    return tmp_path / "llama"


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"There is no such path: .*nowhere"):
        read_checkpoint(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder(llama: Path) -> None:
    with pytest.raises(BadInput, match="is a file"):
        read_checkpoint(llama / "config.json")


def test_no_config(llama: Path) -> None:
    (llama / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_checkpoint(llama)


@pytest.mark.parametrize("content", ["{", "[1]", "\xff", "null"])
def test_a_config_that_is_no_json_object(llama: Path, content: str) -> None:
    (llama / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"config\.json .*JSON"):
        read_checkpoint(llama)


def test_no_weights(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        read_checkpoint(llama)


def test_pickled_weights_are_refused_with_the_reason(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled weights only.*run any code"):
        read_checkpoint(llama)


def test_code_that_only_the_model_has_is_refused_with_the_reason(llama: Path) -> None:
    change_json(llama / "config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    with pytest.raises(ModelError, match=r"'mine' is not one that transformers knows and its own code .* is not run"):
        described(llama)


def test_an_index_that_names_missing_files(llama: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="names 1 weight files that are not there: model-00001-of-00002"):
        read_checkpoint(llama)


def write_index(folder: Path, names: Iterable[str], file: str = "model-00001-of-00002.safetensors") -> None:
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_whole_file_is_taken_in_spite_of_an_index_of_other_files(llama: Path) -> None:
    write_index(llama, load_file(llama / "model.safetensors"))
    description = described(llama)
    assert {stamp.name for stamp in description.files} == {"model.safetensors", "config.json"}
    assert "model.safetensors is used, which holds the whole model" in description.notes[0]


def test_a_whole_file_wins_over_an_index_whose_files_are_there_as_in_transformers(llama: Path) -> None:
    other = {name: torch.zeros_like(tensor) for name, tensor in load_file(llama / "model.safetensors").items()}
    save_file(other, llama / "model-00001-of-00001.safetensors", {"format": "pt"})
    write_index(llama, other, "model-00001-of-00001.safetensors")
    assert weight_files(llama) == ("model.safetensors",)
    loaded = AutoModelForCausalLM.from_pretrained(llama).state_dict()
    assert torch.equal(loaded["model.norm.weight"], load_file(llama / "model.safetensors")["model.norm.weight"])


def test_an_index_is_refused_when_the_whole_file_is_not_whole_either(llama: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    write_index(llama, tensors)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, llama / "model.safetensors")
    with pytest.raises(ModelError, match=r"names 1 weight files that are not there.*lacks 1 .*'model\.layers\.1\.mlp"):
        read_checkpoint(llama)


def test_an_index_wins_over_a_file_that_is_not_whole(llama: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    save_file(tensors, llama / "all.safetensors", {"format": "pt"})
    write_index(llama, tensors, "all.safetensors")
    save_file({"model.norm.weight": torch.zeros(64)}, llama / "model.safetensors")
    assert weight_files(llama) == ("all.safetensors",)
    assert described(llama).notes == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"vocab_size": 190},
            r"'model\.embed_tokens\.weight' is 199 × 64 in the files and 190 × 64 .*\(vocab_size 190\)",
        ),
        ({"intermediate_size": 95}, r"is 64 × 96 in the files and 64 × 95 .*\(intermediate_size 95\); 5 more tensors"),
        (
            {"num_key_value_heads": 4},
            r"'model\.layers\.0\.self_attn\.k_proj\.weight' is 32 × 64 in the files and 64 × 64",
        ),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(llama: Path, changes: dict[str, int], words: str) -> None:
    change_json(llama / "config.json", **changes)
    with pytest.raises(ModelError, match=words) as caught:
        described(llama)
    assert "correct config.json" in caught.value.advice


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_experts_that_do_not_fit_are_noticed_through_their_fusing(model_type: str, tmp_path: Path) -> None:
    make_model(model_type, tmp_path, num_hidden_layers=2)
    described(tmp_path)
    change_json(tmp_path / "config.json", num_local_experts=3, num_experts=3)
    with pytest.raises(ModelError, match=r"do not fit its config\.json: '.*' is 4 × .* and 3 × .*experts 3"):
        described(tmp_path)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_a_broken_file_that_answering_needs_is_refused_when_the_model_is_added(llama: Path, name: str) -> None:
    (llama / name).write_text("{")
    with pytest.raises(ModelError, match=rf"{name} is no valid JSON"):
        read_checkpoint(llama)


def test_an_index_that_leads_out_of_the_folder(llama: Path) -> None:
    (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret"}}))
    with pytest.raises(ModelError, match=r"outside of the model's folder: '\.\./secret'"):
        read_checkpoint(llama)


def test_a_tensor_in_two_files(llama: Path) -> None:
    save_file({"model.norm.weight": torch.zeros(64)}, llama / "other.safetensors")
    weight_map = {"model.norm.weight": "other.safetensors", "x": "model.safetensors"}
    (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match=r"'model\.norm\.weight' stands in two files"):
        read_checkpoint(llama)


def test_an_unknown_architecture(llama: Path) -> None:
    change_json(llama / "config.json", model_type="nobody_knows_this")
    with pytest.raises(ModelError, match=r"'nobody_knows_this' is not one that transformers knows"):
        described(llama)


def test_an_encoder_decoder(llama: Path) -> None:
    change_json(
        llama / "config.json", model_type="t5", is_encoder_decoder=True, architectures=["T5ForConditionalGeneration"]
    )
    with pytest.raises(ModelError, match="'t5' is an encoder-decoder"):
        described(llama)


def test_missing_tensors_are_named(llama: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, llama / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 tensors are missing, such as 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        described(llama)


def test_a_missing_expert_is_noticed(tmp_path: Path) -> None:
    make_model("mixtral", tmp_path / "m", num_hidden_layers=2)
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    gone = [name for name in tensors if "layers.1" in name and "experts" in name]
    for name in gone:
        del tensors[name]
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    with pytest.raises(ModelError, match="are missing"):
        described(tmp_path / "m")
