"""Folders that are no model: each is refused with what is wrong, before torch is imported where that is possible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.errors import BadInput, ModelError
from app.models.checkpoint import read_checkpoint
from tests.models.described import described
from tests.worker_agent.tiny_models import make_model


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    make_model("llama", tmp_path / "llama", num_hidden_layers=2)
    return tmp_path / "llama"


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


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


def test_remote_code_is_refused_with_the_reason(llama: Path) -> None:
    change_config(llama, auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    with pytest.raises(ModelError, match=r"own Python code.*not run for safety"):
        read_checkpoint(llama)


def test_an_index_that_names_missing_files(llama: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="names 1 weight files that are not there: model-00001-of-00002"):
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
    change_config(llama, model_type="nobody_knows_this")
    with pytest.raises(ModelError, match=r"'nobody_knows_this' is not one that transformers knows"):
        described(llama)


def test_an_encoder_decoder(llama: Path) -> None:
    change_config(llama, model_type="t5", is_encoder_decoder=True, architectures=["T5ForConditionalGeneration"])
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
