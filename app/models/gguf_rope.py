"""Rotary embeddings as a GGUF file means them. transformers' tables take the base alone; how positions are stretched
stands in `rope.scaling.…`, and in tensors that are no weights: `rope_freqs` (Llama 3.1's way), `rope_factors_long` and
`rope_factors_short` (Phi-3's).

What the file means is computed as llama.cpp does, what the config means by transformers; where they differ the config
is changed, and what it cannot say is refused. Imports torch when used: child processes only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import ModelError
from app.models.gguf_meaning import refusal, short_number

FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
FACTORS = (FREQUENCIES, LONG, SHORT)
"""Tensors by which the frequencies of dimensions are divided."""

_CLOSE, _FACTORS_CLOSE = 1e-5, 2e-6
"""Relative: frequencies that transformers computes in 32 bits; factors that are stored in them."""

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Rope:
    """One kind of rotary embedding: angles per position, and what cosine and sine are multiplied by."""

    short: Numbers
    long: Numbers
    """For texts beyond the length that the model was first made for; else as `short`."""
    scale: float

    def equals(self, other: Rope) -> bool:
        pairs = ((self.short, other.short), (self.long, other.long), ((self.scale,), (other.scale,)))
        return all(len(a) == len(b) and all(map(_close, a, b)) for a, b in pairs)


@dataclass(frozen=True)
class Scaling:
    """What `rope.scaling.…` and the tensors of factors say."""

    kind: str = "none"
    factor: float = 1.0
    attention: float = 1.0
    original: int | None = None
    fast: float | None = None
    slow: float | None = None
    short: Numbers | None = None
    long: Numbers | None = None

    @property
    def stretches(self) -> bool:
        return self.factor != 1.0 or self.attention != 1.0 or self.short is not None


def scaling(said: Mapping[str, Any], factors: Mapping[str, Sequence[float]], config: Mapping[str, Any]) -> Scaling:
    """Read it. Raises ModelError for what transformers has no word for."""
    place = "rope.scaling."
    factor = float(said.get(place + "factor") or said.get("rope.scale_linear") or 1.0)
    kind = str(said.get(place + "type") or "linear")
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise refusal(place + "type", kind, config)
    for key, neutral in (("yarn_log_multiplier", (0.0,)), ("yarn_ext_factor", (1.0, -1.0)), ("alpha", (0.0, 1.0))):
        if (value := said.get(place + key)) is not None and value not in neutral:
            raise refusal(place + key, value, config)
    attention = 1.0
    for key in ("attn_factor", "yarn_attn_factor"):
        attention *= float(said.get(place + key) or 1.0)
    long, short = (factors.get(name) for name in (LONG, SHORT))
    if (long is None) != (short is None):
        raise ModelError("The GGUF file holds one of the two tensors rope_factors_long and rope_factors_short alone.")
    if long is None:
        long = short = factors.get(FREQUENCIES)
    found = Scaling(
        "none" if kind == "linear" and factor == 1.0 else kind,
        1.0 if kind == "none" else factor,
        attention,
        said.get(place + "original_context_length") or None,
        said.get(place + "yarn_beta_fast"),
        said.get(place + "yarn_beta_slow"),
        None if short is None else tuple(map(float, short)),
        None if long is None else tuple(map(float, long)),
    )
    if kind == "longrope" and long is None:
        raise refusal(place + "type", kind, config, "and has no tensors rope_factors_long and rope_factors_short")
    if kind == "yarn" and long is not None:
        raise refusal(place + "type", kind, config, "and factors per dimension besides, which transformers cannot join")
    return found


def meant(width: int, base: float, of: Scaling, context: int, *, truncate: bool) -> Rope:
    """As llama.cpp computes it, for `width` dimensions of a head that are turned."""
    plain = [base ** (-2 * index / width) for index in range(width // 2)]
    if of.kind == "yarn":
        low, high = _ramp(width, base, of, context, truncate=truncate)
        kept = [1 - min(1.0, max(0.0, (index - low) / max(0.001, high - low))) for index in range(width // 2)]
        turned = tuple(f / of.factor * (1 - k) + f * k for f, k in zip(plain, kept, strict=True))
        return Rope(turned, turned, of.attention * (1 + 0.1 * math.log(of.factor)))
    sides: list[Numbers] = []
    for factors in (of.short, of.long):
        if factors is not None and len(factors) != len(plain):
            raise ModelError(
                f"The GGUF file has {len(factors)} factors for its rotary embedding, of which {len(plain)} belong to "
                f"the {width} dimensions that are turned."
            )
        divisors = factors or (1.0,) * len(plain)
        sides.append(tuple(f / of.factor / by for f, by in zip(plain, divisors, strict=True)))
    short, long = sides
    return Rope(short, long, of.attention)


def _ramp(width: int, base: float, of: Scaling, context: int, *, truncate: bool) -> tuple[float, float]:
    """Between which dimensions yarn goes over from one kind of angle to the other."""
    original = of.original or context
    low, high = (
        width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (of.fast or 32.0, of.slow or 1.0)
    )
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, width - 1)


def parameters(of: Scaling, base: float, width: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' `rope_parameters` of it."""
    context = int(config.get("max_position_embeddings") or 0)
    attention = {} if of.attention == 1.0 else {"attention_factor": short_number(of.attention)}
    if of.kind == "yarn":
        whole = of.attention * (1 + 0.1 * math.log(of.factor))
        attention = {} if of.attention == 1.0 else {"attention_factor": whole}
        betas = {name: beta for name, beta in (("beta_fast", of.fast), ("beta_slow", of.slow)) if beta is not None}
        return {
            "rope_type": "yarn", "factor": short_number(of.factor),
            "original_max_position_embeddings": of.original or context, **betas, **attention,
        }  # fmt: skip
    if of.short is None and not attention:
        return (
            {"rope_type": "linear", "factor": short_number(of.factor)} if of.factor != 1 else {"rope_type": "default"}
        )
    ones = (1.0,) * (width // 2)
    short, long = (tuple(f * of.factor for f in factors or ones) for factors in (of.short, of.long))
    if short == long and not attention and (like := _as_llama3(short, base, width, of.original)) is not None:
        return like
    return {
        "rope_type": "longrope", "short_factor": list(short), "long_factor": list(long), "factor": 1.0,
        "original_max_position_embeddings": of.original or context, "attention_factor": short_number(of.attention),
    }  # fmt: skip


def _as_llama3(factors: Numbers, base: float, width: int, original: int | None) -> dict[str, Any] | None:
    """Llama 3.1's four numbers, if they make exactly these factors: None else."""
    factor = max(factors)
    if factor <= 1 or abs(min(factors) - 1) > _FACTORS_CLOSE:
        return None
    for low, high, length in _candidates(factors, base, width, factor, original):
        made = _llama3_factors(base, width, factor, low, high, length)
        if all(abs(one - other) <= _FACTORS_CLOSE * other for one, other in zip(made, factors, strict=True)):
            return {
                "rope_type": "llama3", "factor": short_number(factor), "low_freq_factor": low,
                "high_freq_factor": high, "original_max_position_embeddings": length,
            }  # fmt: skip
    return None


def _candidates(
    factors: Numbers, base: float, width: int, factor: float, original: int | None
) -> list[tuple[float, float, int]]:
    """Low and high bound and length: what Llama 3 has, and what follows from the factors between the bounds, of which
    1 / factor grows evenly with the frequency. Of the three numbers two can be told; the lower bound is then 1.
    """
    found = [(1.0, 4.0, length) for length in dict.fromkeys((original or 8192, 8192))]
    points = [
        (base ** (-2 * index / width) / (2 * math.pi), (1 / by - 1 / factor) / (1 - 1 / factor))
        for index, by in enumerate(factors)
        if 1 < by < factor
    ]
    found += [(1.0, 4.0, round((1 + 3 * y) / x)) for x, y in points[:1]]
    if len(points) > 1 and points[0][0] != points[-1][0]:
        (x, y), (x_last, y_last) = points[0], points[-1]
        slope = (y - y_last) / (x - x_last)
        start = slope * x - y
        if slope > 0 and start > 0:
            high = round(1 + 1 / start, 3)
            found.append((1.0, high, round(slope * (high - 1))))
    return found


def _llama3_factors(base: float, width: int, factor: float, low: float, high: float, length: int) -> Numbers:
    found = []
    for index in range(width // 2):
        wavelength = 2 * math.pi * base ** (2 * index / width)
        smooth = min(1.0, max(0.0, (length / wavelength - low) / (high - low)))
        found.append(1 / ((1 - smooth) / factor + smooth))
    return tuple(found)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= _CLOSE * max(abs(one), abs(other)) or max(abs(one), abs(other)) < 1e-12


# --- in the config ---


def with_rope(
    config: Any, model: Any, said: Mapping[str, Any], factors: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """What fields of the config have to say for its rotary embeddings to be those that the file means.

    Args:
        config: transformers' own, of the text model.
        model: what it builds, on the meta device.

    Returns:
        changes; empty where the config means the same.

    Raises:
        ModelError: the model turns nothing, or cannot be turned like that.
    """
    plain = config.to_dict()
    wanted = scaling(said, factors, plain)
    embedding = rotary(model)
    if embedding is None:
        if wanted.stretches or factors:
            raise refusal("rope.scaling", said.get("rope.scaling.type") or ", ".join(factors), plain)
        return {}
    current = dict(plain.get("rope_parameters") or {})
    kinds = {name: value for name, value in current.items() if isinstance(value, dict)}
    own = (type(config)().to_dict().get("rope_parameters") or {}) if not kinds else {}
    truncate = bool(own.get("truncate", True))
    context = int(plain.get("max_position_embeddings") or 0)
    changed = dict(current)
    for kind in kinds or {"": current}:
        narrow = kind == "sliding_attention"
        entry = dict(current[kind] if kind else current)
        base = float(said.get("rope.freq_base_swa" if narrow else "rope.freq_base") or entry.get("rope_theta") or 1e4)
        width = said.get("rope.dimension_count_swa" if narrow else "rope.dimension_count")
        of = Scaling() if narrow else wanted
        has = _observed(embedding, config, kind, entry)
        if width is None or kinds:
            width = 2 * len(has.short)
        if has.equals(meant(width, base, of, context, truncate=truncate)):
            continue
        kept = {name: value for name, value in own.items() if own.get("rope_type") == of.kind and name == "truncate"}
        made = {"rope_theta": short_number(base), **kept, **parameters(of, base, width, plain)}
        if (share := _share(width, has, plain, entry)) is not None:
            made["partial_rotary_factor"] = share
        changed = {**changed, kind: made} if kind else made
    if changed == current:
        return {}
    changes: dict[str, Any] = {"rope_parameters": changed}
    for name in ("partial_rotary_factor", "rope_theta"):
        if name in plain and name in changed:
            changes[name] = changed[name]
    original = changed.get("original_max_position_embeddings")
    if original is not None and "original_max_position_embeddings" in plain:
        changes["original_max_position_embeddings"] = original
    return changes


def check_rope(config: Any, model: Any, said: Mapping[str, Any], factors: Mapping[str, Sequence[float]]) -> None:
    """Make sure that the config now means what the file does. Raises ModelError."""
    if with_rope(config, model, said, factors):
        found = {key: value for key, value in said.items() if key.startswith("rope.")}
        raise refusal("rope", found or ", ".join(factors), config.to_dict())


def rotary(model: Any) -> Any:
    """The model's rotary embedding with its numbers; None for a model that has none or makes it otherwise."""
    import torch

    for module in model.modules():
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            with torch.device("cpu"):
                return type(module)(config=module.config)
    return None


def _observed(embedding: Any, config: Any, kind: str, entry: Mapping[str, Any]) -> Rope:
    """What transformers computes by a config."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    prefix = f"{kind}_" if kind else ""
    short = getattr(embedding, f"{prefix}inv_freq")
    scale = float(getattr(embedding, f"{prefix}attention_scaling", 1.0))
    long = short
    if entry.get("rope_type") == "longrope":
        kinds = {"layer_type": kind} if kind else {}
        long, _ = ROPE_INIT_FUNCTIONS["longrope"](config, "cpu", seq_len=2**62, **kinds)
    return Rope(tuple(short.double().tolist()), tuple(long.double().tolist()), scale)


def _share(width: int, has: Rope, config: Mapping[str, Any], entry: Mapping[str, Any]) -> float | None:
    """The share of a head's dimensions that are turned, where the config has to name one."""
    head = config.get("head_dim") or (config.get("hidden_size") or 0) // (config.get("num_attention_heads") or 1)
    if width == 2 * len(has.short):
        found = entry.get("partial_rotary_factor", config.get("partial_rotary_factor"))
        return None if found is None else float(found)
    return width / head
