"""How much context a model is made for, as its config means it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import PlacementError
from app.serving import Serving
from app.sharding.capacity import NodeCapacity
from app.sharding.placement import place_ranges
from tests.models.described import described
from tests.worker_agent.tiny_models import make_model
from worker_agent.model.anatomy import build_empty, examine
from worker_agent.model.context_length import UNLIMITED

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 50,
}  # fmt: skip
LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize(
    ("model_type", "fields", "expected"),
    [
        ("llama", {"max_position_embeddings": 4096}, 4096),
        # As Qwen's model cards tell to add it, in both spellings.
        (
            "qwen2",
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
            },
            131072,
        ),
        (
            "qwen3",
            {
                "max_position_embeddings": 40960,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ("llama", {"max_position_embeddings": 64, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 256),
        # DeepSeek's: the config has the whole length already.
        (
            "deepseek_v3",
            {
                "max_position_embeddings": 163840,
                "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
                "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
                "num_key_value_heads": 2, "first_k_dense_replace": 2, "n_routed_experts": 8, "n_group": 2,
                "topk_group": 1,
            },
            163840,
        ),
        ("llama", {"max_position_embeddings": 64, "rope_scaling": {"rope_type": "dynamic", "factor": 8.0}}, 512),
        ("llama", {"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        (
            "llama",
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            131072,
        ),
        (
            "phi3",
            {
                "max_position_embeddings": 1024, "original_max_position_embeddings": 64, "pad_token_id": 0,
                "rope_scaling": {"type": "longrope", **LONG},
            },
            1024,
        ),
        # Gemma 3 stretches some layers alone, and the config's length is the stretched one.
        (
            "gemma3_text",
            {"max_position_embeddings": 2048, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            2048,
        ),
        ("gemma3", {"text_config": {**TINY, "model_type": "gemma3_text", "max_position_embeddings": 777}}, 777),
        ("mpt", {"d_model": 32, "n_heads": 2, "n_layers": 2, "vocab_size": 50, "max_seq_len": 300}, 300),
        ("gpt2", {"n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 99}, 99),
        # These have no limit of their own.
        ("bloom", {"hidden_size": 32, "n_head": 2, "n_layer": 2}, UNLIMITED),
        ("bloom", {"hidden_size": 32, "n_head": 2, "n_layer": 2, "seq_length": 2048}, 2048),
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, UNLIMITED),
    ],
)  # fmt: skip
def test_the_context_is_what_the_config_means(model_type: str, fields: dict[str, Any], expected: int) -> None:
    own = {} if model_type in ("mpt", "gpt2", "bloom", "mamba", "gemma3") else TINY
    config = json.dumps({**own, "model_type": model_type, **fields}).encode()
    assert examine(build_empty(config)).max_context == expected


def test_the_advice_on_a_context_that_is_too_long_can_be_followed(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    make_model("llama", tmp_path, num_hidden_layers=2, max_position_embeddings=64, rope_scaling=scaling)
    description = described(tmp_path)
    nodes = (NodeCapacity(node_id=1, name="a", free_memory=10**9),)
    assert place_ranges(description, nodes, [(0, 2)], Serving("float32", 256, 256)).serving.context == 256
    with pytest.raises(PlacementError, match=r"reads at most 256 tokens, not 257\. Take a smaller context"):
        place_ranges(description, nodes, [(0, 2)], Serving("float32", 257, 512))
