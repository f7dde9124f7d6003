"""Tiny models with random weights, one of each architecture that the project vouches for.

As a program (`tests.tiny_model` starts it) it makes one: TYPE FOLDER CHANGES, which are JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 199
_SHARED = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA = {
    **_SHARED, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
}  # fmt: skip

CONFIGS: dict[str, dict[str, object]] = {
    "llama": {**_LLAMA, "tie_word_embeddings": True},
    "gpt2": {**_SHARED, "n_embd": 64, "n_layer": 7, "n_head": 4, "n_positions": 512},
    "opt": {
        **_SHARED, "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 7, "num_attention_heads": 4,
        "max_position_embeddings": 512, "word_embed_proj_dim": 64,
    },
    "qwen3": {**_LLAMA, "tie_word_embeddings": False},
    "gemma3_text": {**_LLAMA, "sliding_window": 8, "query_pre_attn_scalar": 16, "tie_word_embeddings": False},
    "mistral": {**_LLAMA, "sliding_window": 8},
    "mixtral": {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**_LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "gpt_neox": {
        **_SHARED, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7, "num_attention_heads": 4,
        "max_position_embeddings": 512,
    },
    "phi3": {**_LLAMA, "tie_word_embeddings": False},
    "bloom": {**_SHARED, "hidden_size": 64, "n_layer": 7, "n_head": 4, "tie_word_embeddings": False},
    "falcon": {
        **_SHARED, "hidden_size": 64, "num_hidden_layers": 7, "num_attention_heads": 4,
        "new_decoder_architecture": False, "multi_query": True, "alibi": False, "parallel_attn": True,
        "max_position_embeddings": 512,
    },
}  # fmt: skip


def make_model(model_type: str, folder: Path, **changes: object) -> PreTrainedModel:
    """Make a tiny model with random weights, save it as safetensors and return it ready to generate."""
    torch.manual_seed(11)
    config = CONFIG_MAPPING[model_type](**{**CONFIGS.get(model_type, _LLAMA), **changes})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                # Fresh norms and biases are ones and zeros, which would hide one that was left out.
                parameter.add_(torch.randn_like(parameter) * 0.05)
            else:
                # Fresh matrices are so small that every answer repeats one token, which would hide much more.
                parameter.copy_(torch.randn_like(parameter) * (1.6 / parameter.shape[-1] ** 0.5))
    model.save_pretrained(folder)
    return model


def greedy(model: PreTrainedModel, prompt: list[int], max_tokens: int) -> list[int]:
    """What transformers' own generate answers."""

    def generated() -> list[int]:
        tokens = torch.tensor([prompt])
        with torch.no_grad():
            answer = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=max_tokens, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        found: list[int] = answer[0, len(prompt) :].tolist()
        return found

    from tests.worker_agent.references import identity, kept  # a child that makes a model has no need of it

    return kept(["greedy", identity(model), prompt, max_tokens], generated)


if __name__ == "__main__":
    make_model(sys.argv[1], Path(sys.argv[2]), **json.loads(sys.argv[3]))
