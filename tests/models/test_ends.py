"""Embedding and head are one tensor or two as the files say, whatever the config says: the same tokens everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from app.errors import ModelError
from app.sharding.cutting import CuttingJob
from app.sharding.plan import divide
from app.sharding.shard_folder import read_metadata
from tests.models.described import cut_as_added, described
from tests.tiny_model import change_json
from tests.worker_agent.ring import Ring
from tests.worker_agent.tiny_models import greedy, make_model
from worker_agent.model.anatomy import build_empty, config_with_ties, end_pairs, examine

PROMPT, ANSWER = list(range(20, 40)), 12
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def answers(folder: Path, tmp_path: Path) -> list[list[int]]:
    """What the model answers whole, in two stages and in three."""
    cut = cut_as_added(folder, tmp_path / "parts")
    found = []
    for boundaries in ([], [2], [1, 3]):
        ring = Ring.build(cut, boundaries)
        ring.start(1, PROMPT, ANSWER)
        ring.finish()
        assert not ring.faults
        found.append(ring.answer(1))
    return found


def two_ends(folder: Path) -> PreTrainedModel:
    """A model whose head is another matrix than its embedding, and whose config denies it."""
    model = make_model("llama", folder, num_hidden_layers=4, tie_word_embeddings=False)
    change_json(folder / "config.json", tie_word_embeddings=True)
    return model


def test_files_that_hold_both_ends_are_not_tied_whatever_the_config_says(tmp_path: Path) -> None:
    expected = greedy(two_ends(tmp_path / "model"), PROMPT, ANSWER)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert greedy(reference, PROMPT, ANSWER) == expected
    assert answers(tmp_path / "model", tmp_path) == [expected] * 3
    description = described(tmp_path / "model")
    assert {part.kind for part in description.parts} == {"first", "layer", "last"}
    assert "the files hold another one, 'lm_head.weight'; it is used." in description.notes[0]
    assert json.loads(description.config_bytes())["tie_word_embeddings"] is False


@pytest.mark.parametrize("held", [EMBEDDING, HEAD])
@pytest.mark.parametrize("said", [True, False])
def test_files_that_hold_one_end_alone_use_it_for_both(held: str, said: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = make_model("llama", folder, num_hidden_layers=4, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors[held] = tensors.pop(EMBEDDING)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    change_json(folder / "config.json", tie_word_embeddings=said)
    assert answers(folder, tmp_path) == [greedy(model, PROMPT, ANSWER)] * 3
    description = described(folder)
    assert [part.kind for part in description.parts if part.kind != "layer"] == ["tied", "last"]
    assert json.loads(description.config_bytes())["tie_word_embeddings"] is True
    assert [f"the files hold '{held}' alone" in note for note in description.notes] == ([] if said else [True])


@pytest.mark.parametrize("named", [["LlamaModel"], None])
def test_a_model_that_makes_embeddings_is_refused(named: list[str] | None, tmp_path: Path) -> None:
    """Its embedding is no head: every answer would be noise."""
    model = make_model("llama", tmp_path / "model", num_hidden_layers=2, tie_word_embeddings=False)
    model.base_model.save_pretrained(tmp_path / "embedder")
    change_json(tmp_path / "embedder" / "config.json", architectures=named)
    with pytest.raises(ModelError, match="has no head: it makes embeddings"):
        described(tmp_path / "embedder")


def test_an_end_that_the_files_hold_twice_is_kept_once(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = make_model("llama", folder, num_hidden_layers=4, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, HEAD: tensors[EMBEDDING].clone()}, folder / "model.safetensors", {"format": "pt"})
    description = described(folder)
    assert description.weight_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert (description.config, description.notes) == ("", ())
    assert answers(folder, tmp_path) == [greedy(model, PROMPT, ANSWER)] * 3


def test_a_head_that_differs_in_its_last_element_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_model("llama", folder, num_hidden_layers=4, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    head = tensors[EMBEDDING].clone()
    head[-1, -1] += 1
    save_file({**tensors, HEAD: head}, folder / "model.safetensors", {"format": "pt"})
    assert {part.kind for part in described(folder).parts} == {"first", "layer", "last"}


def test_the_shards_of_a_model_say_what_its_files_are(tmp_path: Path) -> None:
    two_ends(tmp_path / "model")
    description = described(tmp_path / "model")
    outcome = CuttingJob(description, divide(description, 2), tmp_path / "shards").run()
    folders = [Path(shard.folder) for shard in outcome.shards]
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert [config["tie_word_embeddings"] for config in configs] == [False, False]
    ends = [{name for name in load_file(folder / "model.safetensors") if "layers" not in name} for folder in folders]
    assert ends == [{EMBEDDING}, {HEAD, "model.norm.weight"}]
    parts = [{(tensor.part, tensor.layer) for tensor in read_metadata(folder).tensors} for folder in folders]
    assert parts == [{("first", 0), ("layer", 0), ("layer", 1)}, {("layer", 2), ("layer", 3), ("last", 0)}]


def test_one_shard_loads_in_transformers_as_the_model_does(tmp_path: Path) -> None:
    model = two_ends(tmp_path / "model")
    description = described(tmp_path / "model")
    (shard,) = CuttingJob(description, divide(description, 1), tmp_path / "shards").run().shards
    loaded = AutoModelForCausalLM.from_pretrained(shard.folder).eval()
    assert not loaded.config.tie_word_embeddings
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert greedy(loaded, PROMPT, ANSWER) == greedy(model, PROMPT, ANSWER)


@pytest.mark.parametrize("tied", [True, False])
def test_a_config_that_holds_another_config_says_it_in_both(tied: bool) -> None:
    text = {
        "model_type": "gemma3_text", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48, "vocab_size": 100,
    }  # fmt: skip
    config = json.dumps({"model_type": "gemma3", "text_config": text, "tie_word_embeddings": not tied}).encode()
    changed = config_with_ties(config, tied)
    fields = json.loads(changed)
    assert (fields["tie_word_embeddings"], fields["text_config"]["tie_word_embeddings"]) == (tied, tied)
    assert fields["text_config"]["hidden_size"] == 32
    model = build_empty(changed)
    assert bool(examine(model).tied) is tied


def test_looking_for_ends_that_could_be_tied_changes_no_config(tmp_path: Path) -> None:
    for tied in (True, False):
        make_model("llama", tmp_path / str(tied), num_hidden_layers=2, tie_word_embeddings=tied)
        model = build_empty((tmp_path / str(tied) / "config.json").read_bytes())
        assert end_pairs(model, examine(model)) == ((HEAD, EMBEDDING),)
        assert model.config.tie_word_embeddings is tied
