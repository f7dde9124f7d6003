"""A tiny model of every causal type that transformers knows, made so that what may go wrong does.

Sizes are small and unlike each other, windows are shorter than prompts, layers of all the kinds that a type has
alternate in a pattern that gives uneven stages several of them, experts are few, states are narrow. What a type has of
this is read from the fields of its own config; the few that need more are told apart in `SPECIAL`.
"""

from __future__ import annotations

import copy
import json
import zlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 199
LAYERS = 7
WINDOW = 8
PATTERN = "ABAABBA"
"""Which kind of layer stands where: cut before layer 2 or before 1 and 5, each of three stages differs from the others
in what it holds."""

CAUSAL_TYPES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
QUARTER: tuple[str, ...] = tuple(name for name in CAUSAL_TYPES if zlib.crc32(name.encode()) % 4 == 3)
"""A quarter of the types, the same on every machine and whatever types are added."""

_LAYERS = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "num_decoder_layers"), LAYERS),
}
_WIDTHS = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("attention_hidden_size", "lru_width", "embedding_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "dff", "dim_ff", "d_inner"), 96),
    **dict.fromkeys(("intermediate_size_mlp", "dense_intermediate_size", "ffn_hidden_size", "n_inner"), 96),
    **dict.fromkeys(("shared_intermediate_size", "shared_expert_intermediate_size", "feed_forward_size"), 40),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "moe_shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_experts_intermediate_size", "prefix_dense_intermediate_size"), 40),
    "max_position_embeddings": 512, "n_positions": 512, "n_ctx": 512, "max_seq_len": 512, "model_max_length": 512,
    "max_target_positions": 512, "context_length": 512,
}  # fmt: skip
_HEADS = {
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("attention_heads", "swa_num_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "num_query_groups"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "kv_channels", "dim_head", "d_head", "attention_head_size"), 16),
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12,
    "rotary_dim": 8, "query_pre_attn_scalar": 16, "o_lora_rank": 16, "o_groups": 2,
    "index_head_dim": 16, "index_n_heads": 16, "index_topk": 6, "indexer_n_heads": 16, "indexer_head_dim": 16,
}  # fmt: skip
_WINDOWS = {
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size", "attention_window_size"), WINDOW),
    **dict.fromkeys(("sliding_window_size", "local_attention", "keep_window_size"), WINDOW),
}
_EXPERTS = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("n_group", "num_expert_group", "topk_group", "decoder_sparse_step"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 2),
    "router_hidden_size": 16,
}  # fmt: skip
_STATES = {
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_d_conv", "conv_kernel", "conv1d_width", "short_conv_kernel_size"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 2),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size", "block_size"), 8),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 6),
    "mamba_expand": 2, "expand": 2, "mamba_d_ssm": 128,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_head_dim": 16, "linear_num_heads": 4,
}  # fmt: skip
_IDS = {
    "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1,
    "forced_eos_token_id": None, "forced_bos_token_id": None, "sep_token_id": 2, "cls_token_id": 1, "eod_token_id": 2,
    "vocab_size_per_layer_input": VOCABULARY, "suppress_tokens": None, "begin_suppress_tokens": None,
    "mask_token_id": 0, "unk_index": 3, "mask_index": 5, "start_token_id": 1,
}  # fmt: skip
_TINY = {**_LAYERS, **_WIDTHS, **_HEADS, **_WINDOWS, **_EXPERTS, **_STATES, **_IDS}

_LATENT = {"num_key_value_heads": 4}
"""Multi-head latent attention has as many key heads as heads."""

_BESIDE = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 16, "per_layer_config": {}, "mlp_layer_types": ["dense"], "depth": 1, "num_heads": 2,
    "adapter_in_dim": 16, "adapter_out_dim": 64, "adapter_input_size": 16,
}  # fmt: skip
"""Of what sees and hears beside the language model."""

_DECODER = {"is_decoder": True, "is_encoder_decoder": False}
_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
}
_SLIDING = {
    "use_sliding_window": True, "max_window_layers": 0, "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
_WIDER_FULL = {index: {"head_dim": 32} for index, letter in enumerate(PATTERN) if letter == "B" or index == LAYERS - 1}

_LOCAL = {
    "hidden_size": 32, "hidden_size_global": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
    "intermediate_size": 48, "vocab_size": VOCABULARY, "max_position_embeddings": 512, "cross_attn_k": 2,
}  # fmt: skip

NO_DEFAULT: dict[str, dict[str, Any]] = {
    "gemma4_assistant": {
        "text_config": {
            "num_kv_shared_layers": LAYERS,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_hidden_layers": LAYERS,
        }
    },
}
"""What transformers has to be told to make a type's config at all."""

SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 4, 5]},
    "blt": {
        "encoder_hash_byte_group_vocab": 50, "encoder_hash_byte_group_size": [3, 4], "patch_in_forward": False,
        "encoder_config": _LOCAL, "decoder_config": _LOCAL,
        "global_config": {**_LOCAL, "hidden_size": 64, "num_hidden_layers": LAYERS},
        "patcher_config": {**_LOCAL, "hidden_size": 32},
    },
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"], "rope_parameters": _ROPES},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
    },
    "dory": {
        "layer_types": ["sliding_attention", "full_attention"], "n_input_layers": 2, "n_recurrent_layers": 3,
        "n_output_layers": 2,
    },
    "dots3_note_text": {
        "head_dim": 24, "per_layer_config": {
            index: {"num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 12, "qk_nope_head_dim": 8,
                    "qk_rope_head_dim": 8, "head_dim": 16, "q_lora_rank": 24, "v_head_dim": 12}
            for index, letter in enumerate(PATTERN) if letter == "B"
        },
    },
    "exaone4": {"sliding_window_pattern": 4},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True},
    "gemma3n_text": {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "laurel_rank": 8},
    "gemma4_text": {
        "per_layer_config": _WIDER_FULL, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8,
    },
    "gemma4_unified_text": {"per_layer_config": _WIDER_FULL},
    "gemma4_assistant": NO_DEFAULT["gemma4_assistant"]["text_config"],
    "gemma4_unified_assistant": {"num_kv_shared_layers": LAYERS},
    "gpt_neo": {"attention_types": [[["global", "local"], 2], [["local"], 2], [["global"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "inkling2_text": {"unpadded_vocab_size": VOCABULARY},
    "inkling2_loop_text": {
        "unpadded_vocab_size": VOCABULARY, "loop_layer_index_start": 2, "loop_layer_index_end": 4,
        "n_layers_per_attn_res_block": 2, "loop_gate_rank": 8,
    },
    "glm_moe_dsa": {"indexer_types": ["full", "shared"]},
    **{name: {"layer_types": ["sliding_attention", "full_attention"]} for name in ("laguna", "mellum")},
    **{name: _SLIDING for name in ("dots1", "qwen2", "qwen3", "got_ocr2", "moss_transcribe_diarize")},
    **{name: _SLIDING for name in ("qwen2_moe", "smollm3")},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"zero_expert_num": 2, "num_layers": 4},
    "mamba2": {"num_heads": 8},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"], "index_n_heads": 2, "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "moshi": {"sliding_window": 512},  # as wide as its context, as in the weights that there are
    "qwen4_exp_text": {
        "indexer_kv_heads": 1, "indexer_budget": 4, "indexer_compress_ratio": 2, "hc_lowrank": 8,
    },
    "reformer": {
        "is_decoder": True, "axial_pos_shape": [16, 32], "axial_pos_embds_dim": [32, 32],
        "attn_layers": ["local", "lsh", "local", "local", "lsh", "lsh", "local"], "lsh_attn_chunk_length": 16,
        "local_attn_chunk_length": 16, "num_buckets": 4,
    },
    "roc_bert": {
        "shape_vocab_size": 29, "shape_embed_dim": 16, "pronunciation_vocab_size": 31, "pronunciation_embed_dim": 16,
    },
    "xlstm": {"num_blocks": LAYERS, "chunk_size": 16, "qk_dim_factor": 1.0, "ffn_round_up_to_multiple_of": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 128, "attention_head_dim": 32, "n_mamba_heads": 2, "num_key_value_heads": 4,
    },
    "zamba2": {
        "attention_hidden_size": 128, "attention_head_dim": 32, "num_mem_blocks": 2, "num_key_value_heads": 4,
        "layers_block_type": ["linear_attention", "hybrid"],
    },
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
SAME_TEXT = {
    "dots3_note": "dots3_note_text", "gemma3n": "gemma3n_text", "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text", "qwen4_exp": "qwen4_exp_text",
}  # fmt: skip
"""Types whose text part is another type's."""


def _pattern(kinds: list[str]) -> list[str]:
    """A list of `LAYERS` kinds of layer in which all of `kinds` alternate."""
    if len(kinds) > 2:
        return [kinds[index % len(kinds)] for index in range(LAYERS)]
    return [kinds[0] if letter == "A" else kinds[-1] for letter in PATTERN]


def _fields(config: PreTrainedConfig, special: dict[str, Any]) -> dict[str, Any]:
    """The tiny values of the fields that this config has."""
    given = config.to_dict()
    fields = {name: value for name, value in _TINY.items() if name in given} | special
    if "kv_lora_rank" in given:
        fields |= _LATENT
    if given.get("qk_rope_head_dim") is not None and given.get("head_dim") == given["qk_rope_head_dim"]:
        fields["head_dim"] = fields["qk_rope_head_dim"]
    for name in ("layer_types", "mlp_layer_types", "indexer_types", "layers_block_type"):
        kinds = list(dict.fromkeys(special.get(name) or given.get(name) or ()))
        if kinds:
            fields[name] = _pattern([kind for kind in kinds if kind != "mlp" or name != "layer_types"])
    if given.get("is_decoder") is not None and not config.model_type.startswith("gpt_neox"):
        fields |= _DECODER
    return fields


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The config of a tiny model of a type. Raises whatever transformers does where it cannot be made."""
    special = SPECIAL.get(SAME_TEXT.get(model_type, model_type), {})
    kind = CONFIG_MAPPING[model_type]
    default = kind(**NO_DEFAULT.get(model_type, {}))
    text = default.get_text_config(decoder=True)
    parts: dict[str, Any] = {}
    for name in ("vision_config", "audio_config", "audio_encoder"):
        part = getattr(default, name, None)
        if isinstance(part, PreTrainedConfig):
            fields = {key: value for key, value in {**_TINY, **_BESIDE}.items() if key in part.to_dict()}
            parts[name] = {**fields, "model_type": part.model_type}
    if type(text) is kind:
        return kind(**_fields(default, special), **parts)
    for name in ("text_config", "decoder"):
        if isinstance(getattr(default, name, None), PreTrainedConfig):
            return kind(**parts, **{name: {**_fields(text, special), "model_type": text.model_type}})
    return kind(**_fields(default, special), **parts)


def make_model(model_type: str, folder: Path, layers: int = LAYERS) -> PreTrainedModel:
    """Make a tiny model with random weights, save it as safetensors and return it as it is loaded from there.

    Of a few scales of its matrices that is taken whose answers vary most: where layers whisper, a tied head repeats
    the last token, and where they shout, all tokens become alike; both would hide what is wrong. Which one that is
    stands in `scales.json`, so that it need not be looked for each time.

    Args:
        layers: so many of the type's layers, the first ones; not every type can do with fewer.
    """
    config = tiny_config(model_type)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == LAYERS > layers:
            setattr(config, name, value[:layers])
    if layers < LAYERS:
        config.num_hidden_layers = layers
    _refuse_large(config)
    _fill(config, *(KNOWN_SCALES.get(model_type) or best_scales(config))).save_pretrained(folder)
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded.eval()


def best_scales(config: PreTrainedConfig) -> tuple[float, float]:
    """Those of `SCALES` with which a model's answers vary most, or the first with which they vary enough."""
    best, most = SCALES[0], -1
    for scales in SCALES:
        try:
            variety = _variety(_fill(config, *scales))
        except Exception:
            return best if most >= 0 else scales  # transformers itself cannot answer with it
        if variety > most:
            best, most = scales, variety
        if variety >= ENOUGH:
            break
    return best


MOST_PARAMETERS = 10_000_000
SCALES = [(1.6, 1.0), (1.6, 0.2), (0.8, 0.2), (0.8, 1.0), (0.4, 0.05), (3.0, 1.0)]
"""Of matrices, and of the embedding beside them."""
ENOUGH = 16
"""Different tokens in two answers of 12."""
KNOWN_SCALES: dict[str, list[float]] = json.loads(Path(__file__).with_name("scales.json").read_text(encoding="utf-8"))
"""What `best_scales` finds for the types of the tests."""


def _refuse_large(config: PreTrainedConfig) -> None:
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(copy.deepcopy(config)).num_parameters()
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"the model would have {parameters:,} parameters; its config is not tiny")


def _fill(config: PreTrainedConfig, scale: float, embedding: float) -> PreTrainedModel:
    torch.manual_seed(11)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32).eval()
    persistent, ends = set(model.state_dict()), {id(model.get_input_embeddings().weight)}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                # Fresh norms and biases are ones and zeros, which would hide one that was left out.
                parameter.add_(torch.randn_like(parameter) * 0.05)
            else:
                # Fresh matrices are so small that every answer repeats one token, which would hide much more.
                factor = embedding if id(parameter) in ends else 1.0
                parameter.copy_(torch.randn_like(parameter) * (factor * scale / parameter.shape[-1] ** 0.5))
        for name, buffer in model.named_buffers():
            if name in persistent and buffer.is_floating_point():
                buffer.add_(torch.randn_like(buffer) * 0.05)
    return model


def _variety(model: PreTrainedModel) -> int:
    """How many different tokens two answers have."""
    found = 0
    for length in (3, 30):
        tokens = torch.arange(10, 10 + length)[None]
        with torch.no_grad():
            made = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False, eos_token_id=None,
                pad_token_id=0,
            )  # fmt: skip
        found += len(set(made[0, length:].tolist()))
    return found
