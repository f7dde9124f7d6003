"""What a GGUF file's metadata say of a model's numbers and transformers' tables leave out: windows, caps, scales,
widths of heads, experts' ways. It is read into the config; what the config has no word for is refused by its name, and
what nobody here knows is noted. Rotary embeddings have a module of their own (`gguf_rope.py`).

Imports nothing of torch: plain values in, changes of a config out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import ModelError

ADVICE = "Use the model's safetensors version, from the Hub for one."


@dataclass(frozen=True)
class Said:
    """What one key means."""

    attributes: tuple[str, ...] = ()
    """What configs call it; the first that a config has is taken."""
    neutral: tuple[Any, ...] = ()
    """Values that change nothing in a model whose config has no word for it."""
    zero_is_none: bool = False
    """Whether 0 means that the file does not say it."""


_EPSILON = Said(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"))
_CAP = (0.0,)

KEYS: Mapping[str, Said] = {
    "attention.head_count_kv": Said(("num_key_value_heads", "num_kv_heads")),
    "attention.layer_norm_epsilon": _EPSILON,
    "attention.layer_norm_rms_epsilon": _EPSILON,
    "attention.sliding_window": Said(("sliding_window",), zero_is_none=True),
    "attention.clamp_kqv": Said(("clip_qkv",), (0.0,), zero_is_none=True),
    "attention.causal": Said((), (True,)),
    "attention.max_alibi_bias": Said((), (0.0,)),
    "attention.temperature_length": Said((), (0,)),
    "attention.temperature_scale": Said((), (0.0,)),
    "attention.output_scale": Said((), (1.0,)),
    "attention.shared_kv_layers": Said(("num_kv_shared_layers",), (0,)),
    "embedding_length_per_layer_input": Said(("hidden_size_per_layer_input",), (0,)),
    "attn_logit_softcapping": Said(("attn_logit_softcapping",), _CAP, zero_is_none=True),
    "final_logit_softcapping": Said(("final_logit_softcapping",), _CAP, zero_is_none=True),
    "router_logit_softcapping": Said((), _CAP),
    "logit_scale": Said(("logit_scale",), (1.0,)),
    "residual_scale": Said(("residual_multiplier",), (1.0,)),
    "embedding_scale": Said(("embedding_multiplier",), (1.0,)),
    "activation_sparsity_scale": Said((), ()),
    "swiglu_clamp_exp": Said((), (0.0,)),
    "swiglu_clamp_shexp": Said((), (0.0,)),
    "use_parallel_residual": Said(("use_parallel_residual", "parallel_attn"), ()),
    "expert_count": Said(("num_experts", "num_local_experts", "n_routed_experts"), (0,)),
    "expert_used_count": Said(("num_experts_per_tok",), (0,)),
    "expert_shared_count": Said(("n_shared_experts", "num_shared_experts"), (0,)),
    "expert_weights_scale": Said(("routed_scaling_factor",), (0.0, 1.0), zero_is_none=True),
    "expert_weights_norm": Said(("norm_topk_prob",), ()),
    "expert_group_count": Said(("n_group",), (0, 1), zero_is_none=True),
    "expert_group_used_count": Said(("topk_group",), (0, 1), zero_is_none=True),
    "leading_dense_block_count": Said(("first_k_dense_replace",), (0,)),
    "interleave_moe_layer_step": Said((), (0, 1)),
    "moe_every_n_layers": Said((), (0, 1)),
    "pooling_type": Said((), (0,)),
    "swin_norm": Said((), (False,)),
    "ssm.dt_b_c_rms": Said((), (False,)),
}
"""Keys that change numbers, after the architecture's name. Those that transformers reads itself are not looked up."""

SHAPES = frozenset({
    "vocab_size", "context_length", "attention.head_count", "block_count", "embedding_length", "embedding_length_out",
    "feed_forward_length", "expert_feed_forward_length", "expert_shared_feed_forward_length", "tensor_data_layout",
    "nextn_predict_layers", "attention.q_lora_rank", "attention.kv_lora_rank", "ssm.conv_kernel", "ssm.inner_size",
    "ssm.state_size", "ssm.time_step_rank", "ssm.group_count", "shortconv.l_cache", "full_attention_interval",
})  # fmt: skip
"""What says nothing of numbers, or would not fit the file's own tensors if it were read wrongly."""

_GATES = {0: "none", 1: "softmax", 2: "sigmoid", 3: "softmax"}
_DEEPEST = {"gemma2": 46, "gemma3_text": 62}
"""Gemmas of so many layers, the 27B ones, scale scores by the width of a head as the hidden state would have it; files
do not say it, llama.cpp knows it by the count."""


@dataclass
class Meaning:
    """What comes of the metadata besides rotary embeddings."""

    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the config that have to say something else."""
    notes: list[str] = field(default_factory=list)


def meaning(said: Mapping[str, Any], config: Mapping[str, Any], read: frozenset[str]) -> Meaning:
    """What the file says besides what transformers has read.

    Args:
        said: the metadata of the file's architecture, without its name and the dot.
        config: all fields of the config that transformers made.
        read: the keys that transformers has read into it.

    Raises:
        ModelError: something that changes the model's numbers and that its config has no word for.
    """
    found = Meaning()
    unknown: list[str] = []
    for key, value in said.items():
        if key.startswith("rope.") or key in SHAPES:
            continue
        if key in _OWN:
            _OWN[key](found.changes, key, value, said, config)
        elif key in read:
            continue
        elif key not in KEYS:
            unknown.append(f"{key} = {str(value)[:60]}")
        else:
            _plain(found.changes, key, value, said, config)
    if "attention.head_count_kv" not in said and "attention.head_count" in said and "num_key_value_heads" in config:
        found.changes["num_key_value_heads"] = said["attention.head_count"]
    if "num_kv_heads" in config and "attention.head_count_kv" in said:  # transformers gives it another's name
        found.changes["num_kv_heads"] = said["attention.head_count_kv"]
    if config.get("sliding_window") and "layer_types" not in config and "attention.sliding_window" not in said:
        found.changes["sliding_window"] = None
    _deep_gemmas(found.changes, {**config, **found.changes})
    found.changes = {name: value for name, value in found.changes.items() if not _same(config.get(name), value)}
    if "sliding_window" in found.changes and "use_sliding_window" in config:
        found.changes |= {"use_sliding_window": True, "max_window_layers": 0}
    if unknown:
        found.notes.append(
            f"The file says what is not known here and has no effect: {', '.join(unknown[:4])}"
            f"{f' and {len(unknown) - 4} more' if len(unknown) > 4 else ''}."
        )
    return found


def refusal(key: str, value: Any, config: Mapping[str, Any], reason: str = "") -> ModelError:
    """A key that cannot be followed."""
    return ModelError(
        f"The GGUF file says {key} = {str(value)[:80]}, "
        + (reason or f"which transformers' {config.get('model_type')} has no setting for")
        + "; without it the model would answer otherwise than it was made to.",
        ADVICE,
    )


def _plain(changes: dict[str, Any], key: str, value: Any, said: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    of = KEYS[key]
    if of.zero_is_none and value in (0, 0.0):
        return
    name = next((name for name in of.attributes if name in config), None)
    if name is not None:
        changes[name] = _exact(value, config[name])
    elif not any(_same(value, neutral) for neutral in of.neutral) and not _without_effect(key, value, said, config):
        raise refusal(key, value, config)


def _without_effect(key: str, value: Any, said: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a model whose config has no word for it does so anyway."""
    if key == "attention.sliding_window":
        return bool(value >= said.get("context_length", float("inf")))
    if key == "attention.head_count_kv":
        return bool(value == said.get("attention.head_count"))
    return key == "attention.max_alibi_bias" and config.get("model_type") == "bloom" and bool(value == 8.0)


def _head_width(
    changes: dict[str, Any], key: str, value: Any, said: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Keys and values are as wide as each other in every model that transformers reads from GGUF."""
    if "global_head_dim" in config:  # heads of two widths: those of layers with a window come by a key of their own
        changes["global_head_dim"] = value
        return
    if key == "attention.value_length" and "v_head_dim" in config:
        changes["v_head_dim"] = value
        return
    if key == "attention.value_length" and value != said.get("attention.key_length", value):
        raise refusal(key, value, config, "and its keys are of another width, which transformers does not know")
    hidden, heads = config.get("hidden_size") or config.get("n_embd"), config.get("num_attention_heads")
    if value != (config.get("head_dim") or (hidden or 0) // (heads or config.get("n_head") or 1)):
        if "head_dim" not in config:
            raise refusal(key, value, config)
        changes["head_dim"] = value


def _narrow_head_width(
    changes: dict[str, Any], key: str, value: Any, said: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    if "global_head_dim" in config:
        changes["head_dim"] = value
    elif value != said.get(key.removesuffix("_swa"), value):
        raise refusal(key, value, config)


def _pattern(changes: dict[str, Any], key: str, value: Any, said: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Which layers have a window: one flag each, or the number of layers of which the last one has none."""
    layers = config.get("num_hidden_layers") or 0
    if isinstance(value, Sequence):
        narrow = [bool(flag) for flag in value][:layers]
    else:
        narrow = [value == 0 or index % value < value - 1 for index in range(layers)]
    if "layer_types" in config:
        changes["layer_types"] = ["sliding_attention" if flag else "full_attention" for flag in narrow]
    elif any(narrow):
        raise refusal(key, value, config)


def _scale(changes: dict[str, Any], key: str, value: Any, said: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """By what scores are multiplied."""
    if not value:
        return
    if "attention_multiplier" in config:
        changes["attention_multiplier"] = value
    elif "query_pre_attn_scalar" in config:
        changes["query_pre_attn_scalar"] = _exact(value**-2, config["query_pre_attn_scalar"])
    else:
        width = said.get("attention.key_length") or config.get("head_dim")
        width = width or (config.get("hidden_size") or 0) / (config.get("num_attention_heads") or 1)
        if not width or abs(value * width**0.5 - 1) > 1e-5:
            raise refusal(key, value, config)


def _gate(changes: dict[str, Any], key: str, value: Any, said: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """How a router's scores become weights."""
    if "scoring_func" in config:
        changes["scoring_func"] = _GATES.get(value, "softmax")
    elif value not in ((1, 3) if config.get("model_type") == "gpt_oss" else (0, 1)):
        raise refusal(key, value, config)


_OWN = {
    "attention.key_length": _head_width,
    "attention.value_length": _head_width,
    "attention.key_length_swa": _narrow_head_width,
    "attention.value_length_swa": _narrow_head_width,
    "attention.sliding_window_pattern": _pattern,
    "attention.scale": _scale,
    "expert_gating_func": _gate,
}


def _deep_gemmas(changes: dict[str, Any], config: Mapping[str, Any]) -> None:
    deepest = _DEEPEST.get(str(config.get("model_type")))
    if deepest is None or "query_pre_attn_scalar" in changes:
        return
    whole = config["hidden_size"] // config["num_attention_heads"]
    changes["query_pre_attn_scalar"] = whole if config["num_hidden_layers"] == deepest else config["head_dim"]


def _exact(value: Any, before: Any) -> Any:
    """A number of a file, which has it in 32 bits, as the config would have it: whole where it was whole, and with the
    few digits that make those bits.
    """
    if isinstance(value, float):
        if isinstance(before, int) and not isinstance(before, bool) and abs(value - round(value)) < 1e-3:
            return round(value)
        return short_number(value)
    return value


def short_number(value: float) -> float:
    """The number with the fewest digits that is the same in 32 bits."""
    import numpy as np

    return float(str(np.float32(value)))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float) and not isinstance(other, bool):
        return abs(one - other) <= 1e-7 * abs(one)
    return bool(one == other)
