"""What inspecting a model finds, for models of different build."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.jobs import JobProgress
from app.models.inspect import inspect_folder
from tests.models.described import described, tensors_of
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
    assert (description.hidden_size, description.vocab_size, description.max_context) == (64, 199, 512)


def test_a_tied_embedding_goes_to_both_ends_and_only_there(tmp_path: Path) -> None:
    make_model("llama", tmp_path)
    description = described(tmp_path)
    kinds = [{part.kind for part in description.stage_parts(*layers)} for layers in ((0, 2), (2, 5), (5, 7))]
    assert kinds == [{"tied", "layer"}, {"layer"}, {"tied", "layer", "last"}]


def test_the_child_process_finds_the_same_and_reports(tmp_path: Path) -> None:
    make_model("gpt2", tmp_path, n_layer=2)
    seen: list[JobProgress] = []
    assert inspect_folder(tmp_path, name="tiny", on_progress=seen.append) == described(tmp_path.resolve())
    assert seen[0].phase == "inspecting"


def test_a_model_without_a_tokenizer_is_accepted_and_noted(tmp_path: Path) -> None:
    make_model("llama", tmp_path, num_hidden_layers=2)
    assert not described(tmp_path).has_tokenizer
    (tmp_path / "tokenizer.json").write_text("{}")
    assert described(tmp_path).has_tokenizer
