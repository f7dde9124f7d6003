"""How many tokens a model is made for, as its config says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

UNLIMITED = 2**20
"""Tokens of context for a model whose config names no limit, such as Mamba's or Bloom's."""

_LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length",
    "max_target_positions",
)  # fmt: skip
"""What configs call the length that they are made for."""


def max_context_of(config: PreTrainedConfig) -> int:
    """How many tokens the model is made for, from the config of its text model.

    Rotary embeddings that are stretched count as what they are stretched to (transformers' `ROPE_INIT_FUNCTIONS`, and
    what model cards tell their users to add):

    - yarn: `original_max_position_embeddings` (else the config's length) times `factor`, unless the config's length
      was raised to more already;
    - dynamic and linear: `factor` times the config's length, or times the original one where that is named;
    - longrope, llama3 and the rest: the config's length is the stretched one;
    - kinds by layer (Gemma 3): the config's length is the stretched one, but for yarn, which names the original.
    """
    values = [getattr(config, name, None) for name in _LENGTHS]
    length = next((int(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0), None)
    if length is None:
        return UNLIMITED
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer = [kind for kind in rope.values() if isinstance(kind, dict)] if "rope_type" not in rope else []
    return max([length, *(_stretched(kind, length, bool(by_layer)) for kind in by_layer or [rope])])


def _stretched(rope: Mapping[str, Any], length: int, by_layer: bool) -> int:
    kind, factor, original = (rope.get(key) for key in ("rope_type", "factor", "original_max_position_embeddings"))
    if not isinstance(factor, (int, float)) or kind not in ("yarn", "dynamic", "linear") or (by_layer and not original):
        return length
    return int((original if isinstance(original, (int, float)) and original > 0 else length) * factor)
