"""What inspecting a model finds, for models of different build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

from app.children.work import JobProgress
from app.models.inspect import inspect_job
from tests.inference.tiny_tokenizers import byte_level
from tests.models.described import described, tensors_of
from tests.tiny_model import change_json
from tests.worker_agent.tiny_models import CONFIGS, make_model


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_every_tensor_of_the_files_is_in_exactly_one_part(model_type: str, tmp_path: Path) -> None:
    make_model(model_type, tmp_path)
    description = described(tmp_path)
    names = [tensor.name for part in description.parts for tensor in part.tensors]
    assert sorted(names) == sorted(tensors_of(tmp_path))
    assert [part.index for part in description.layers] == list(range(7))
    assert description.cuts == tuple(range(1, 7))
    assert description.dtype == "float32"
    assert all(description.kv_elements)


def test_figures_of_a_known_model(tmp_path: Path) -> None:
    model = make_model("qwen3", tmp_path)
    description = described(tmp_path)
    assert description.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert description.weight_bytes == 4 * description.parameters
    assert description.kv_elements == (2 * 2 * 16,) * 7  # keys and values of 2 heads, 16 wide
    assert description.kv_bytes_per_token("bfloat16", 2, 4) == 2 * 64 * 2
    assert description.kv_bytes_per_token("bfloat16", 2, 4, kv_dtype="int8") == 2 * (64 + 4 * 4)
    assert (description.hidden_size, description.vocab_size, description.max_context) == (64, 199, 512)


def test_a_tied_embedding_goes_to_both_ends_and_only_there(tmp_path: Path) -> None:
    make_model("llama", tmp_path)
    description = described(tmp_path)
    kinds = [{part.kind for part in description.stage_parts(*layers)} for layers in ((0, 2), (2, 5), (5, 7))]
    assert kinds == [{"tied", "layer"}, {"layer"}, {"tied", "layer", "last"}]


def test_the_child_process_finds_the_same_and_reports(tmp_path: Path) -> None:
    make_model("gpt2", tmp_path, n_layer=2)
    seen: list[JobProgress] = []
    assert inspect_job(tmp_path.resolve(), name="tiny", on_progress=seen.append).run() == described(tmp_path.resolve())
    assert seen[0].phase == "inspecting"


def test_a_model_without_a_tokenizer_is_accepted_and_noted(tmp_path: Path) -> None:
    make_model("llama", tmp_path, num_hidden_layers=2)
    assert not described(tmp_path).has_tokenizer
    byte_level().save(str(tmp_path / "tokenizer.json"))
    assert described(tmp_path).has_tokenizer


def test_a_broken_tokenizer_is_noted_and_counts_as_none(tmp_path: Path) -> None:
    make_model("llama", tmp_path, num_hidden_layers=2)
    (tmp_path / "tokenizer.json").write_text("{}")
    description = described(tmp_path)
    assert not description.has_tokenizer
    (note,) = description.notes
    assert note.startswith(f"{tmp_path / 'tokenizer.json'} cannot be read:")


def test_a_rotary_embedding_that_follows_the_length_can_be_added(tmp_path: Path) -> None:
    make_model("llama", tmp_path, max_position_embeddings=64, rope_scaling={"rope_type": "dynamic", "factor": 8.0})
    description = described(tmp_path)
    assert (description.max_context, description.cuts) == (512, tuple(range(1, 7)))


def test_a_model_that_brings_code_which_it_does_not_need_is_taken_without_it(tmp_path: Path) -> None:
    make_model("phi3", tmp_path, num_hidden_layers=2)
    change_json(tmp_path / "config.json", auto_map={"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"})
    (tmp_path / "modeling_phi3.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    description = described(tmp_path)
    assert (description.architecture, description.num_layers) == ("Phi3ForCausalLM", 2)
    assert description.notes == (
        "The model brings Python code (auto_map in config.json). It is not used: transformers knows the type.",
    )
    assert not (tmp_path / "ran").exists()


def test_tokens_outside_of_the_vocabulary_are_noted(tmp_path: Path) -> None:
    make_model("llama", tmp_path, num_hidden_layers=2, vocab_size=400)
    tokenizer = byte_level()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert described(tmp_path).notes == ()
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    description = described(tmp_path)
    assert description.has_tokenizer
    assert description.notes == (
        "The model's vocabulary ends at 399, and the tokenizer goes beyond: <|im_start|> (400), "
        "<|im_end|> (401). A text that needs such a token is refused.",
    )


def test_tensors_without_a_place_in_the_model_are_noted(tmp_path: Path) -> None:
    make_model("llama", tmp_path, num_hidden_layers=2)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "model.layers.0.extra.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    (note,) = described(tmp_path).notes
    assert note == "The files hold what has no place in the model: 'model.layers.0.extra.weight'."


def test_a_config_that_changes_after_adding_is_noticed(tmp_path: Path) -> None:
    make_model("llama", tmp_path, num_hidden_layers=2)
    description = described(tmp_path)
    assert description.changed_files() == ()
    change_json(tmp_path / "config.json", rope_theta=5.0)
    assert description.changed_files() == ("config.json",)
