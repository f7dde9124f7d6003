"""Attention over a ragged batch: many sequences of unlike length, laid end to end in one row of tokens.

Linear layers see all tokens of a step at once; attention goes sequence by sequence over its own rows.
Registered with transformers as an attention implementation, so every architecture that lets its attention
be replaced gets it. Causality and sliding windows follow from positions, so there is no mask tensor.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from worker_agent.engine.memory.caches import RowCache
from worker_agent.model.linears.packed import being_recorded
from worker_agent.wire.errors import CannotSplit

RAGGED = "shardboard_ragged"
"""The name under which transformers knows this implementation."""

_IGNORED = {"position_ids", "cache_position", "output_attentions", "use_cache", "output_router_logits", "is_causal"}
"""Tensors and flags that transformers passes along and that change nothing here."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens `[start, end)` of the step, which belong to one sequence."""

    cache: RowCache
    start: int
    end: int


_running = threading.local()


@contextmanager
def ragged_step(pieces: Sequence[Piece]) -> Iterator[None]:
    """Within this block the model's attention runs over these pieces; afterwards their caches are longer."""
    _running.pieces = pieces
    try:
        yield
        for piece in pieces:
            piece.cache.length += piece.end - piece.start
    finally:
        _running.pieces = ()


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of `query` [1, heads, tokens, width] over keys and values [1, kv heads, tokens, width] and the cache.

    Returns [1, tokens, heads, value width].

    Raises:
        CannotSplit: the architecture wants something of attention that this does not do (a bias, for one).
    """
    unknown = [name for name, given in kwargs.items() if isinstance(given, torch.Tensor) and name not in _IGNORED]
    if unknown or attention_mask is not None:
        raise CannotSplit(f"attention with {', '.join(unknown) or 'a mask'} cannot run as a ragged batch")
    layer: int = module.layer_idx  # type: ignore[assignment]
    if being_recorded():
        attended: torch.Tensor = torch.ops.shardboard.attend(
            query, key, value, layer, scaling, sliding_window, softcap, s_aux
        )
        return attended, None
    return _attend_pieces(query, key, value, layer, scaling, sliding_window, softcap, s_aux), None


def _attend_pieces(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """`ragged_attention` for the pieces of the step under way; also an operator, for layers that were traced."""
    pieces: Sequence[Piece] = _running.pieces
    if window is None and softcap is None and sinks is None and len(pieces) == query.shape[2]:
        return _attend_singles(query, key, value, layer, scaling, pieces)
    queries, new_keys, new_values = query[0], key[0], value[0]
    outputs = []
    for piece in pieces:
        keys, values = piece.cache.append(
            layer, new_keys[:, piece.start : piece.end], new_values[:, piece.start : piece.end]
        )
        outputs.append(_attend(queries[:, piece.start : piece.end], keys, values, scaling, window, softcap, sinks))
    return torch.cat(outputs)[None]


def _attend_singles(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scaling: float | None,
    pieces: Sequence[Piece],
) -> torch.Tensor:
    """One token of each sequence, which is what decoding is: as few calls per sequence as can be.

    A single token looks at everything, so there is no mask, and the query heads that share a key head are
    rows of one matrix.
    """
    _, heads, tokens, width = query.shape
    kv_heads = key.shape[1]
    grouped = query[0].transpose(0, 1).reshape(tokens, kv_heads, heads // kv_heads, width).split(1)
    outputs = []
    for piece, queries, new_key, new_value in zip(pieces, grouped, key[0].unbind(1), value[0].unbind(1), strict=True):
        keys, values = piece.cache.append_one(layer, new_key, new_value)
        outputs.append(scaled_dot_product_attention(queries, keys, values, scale=scaling))
    joined = outputs[0] if tokens == 1 else torch.cat(outputs)
    return joined.reshape(1, tokens, heads, value.shape[-1])


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One sequence: query [heads, new, width] over keys, values [1, kv heads, all, width] -> [new, heads, width]."""
    heads, new, width = query.shape
    _, kv_heads, total, _ = keys.shape
    if new == 1 and window is not None and total > window:
        keys, values, total = keys[:, :, -window:], values[:, :, -window:], window
    if softcap is not None or sinks is not None:
        return _plain(query, keys[0], values[0], scaling, window, softcap, sinks)
    if new == 1:
        grouped = query.reshape(1, kv_heads, heads // kv_heads, width)
        out = scaled_dot_product_attention(grouped, keys, values, scale=scaling)
        return out.reshape(1, heads, values.shape[-1])
    whole = new == total and (window is None or total <= window)
    mask = None if whole else visible(new, total, window, query.device)
    out = scaled_dot_product_attention(
        query[None], keys, values, attn_mask=mask, is_causal=whole, scale=scaling, enable_gqa=heads != kv_heads
    )
    return out[0].transpose(0, 1)


def visible(new: int, total: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Which of `total` tokens each of the last `new` tokens sees: a boolean [new, total]."""
    queries = torch.arange(total - new, total, device=device)[:, None]
    others = torch.arange(total, device=device)[None, :]
    seen = others <= queries
    return seen if window is None else seen & (others > queries - window)


def _plain(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention written out as in transformers' eager code, for a soft cap (Gemma 2) or sinks (gpt-oss)."""
    heads, new, width = query.shape
    repeat = heads // keys.shape[0]
    keys, values = keys.repeat_interleave(repeat, 0), values.repeat_interleave(repeat, 0)
    scores = torch.matmul(query, keys.transpose(1, 2)) * (width**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~visible(new, keys.shape[1], window, query.device), torch.finfo(scores.dtype).min)
    if sinks is not None:
        scores = torch.cat([scores, sinks.reshape(-1, 1, 1).expand(-1, new, 1).to(scores.dtype)], dim=-1)
        scores = scores - scores.max(dim=-1, keepdim=True).values
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)[..., : keys.shape[1]]
    return torch.matmul(weights, values).transpose(0, 1)


AttentionInterface.register(RAGGED, ragged_attention)

_library = torch.library.Library("shardboard", "DEF")
_library.define(
    "attend(Tensor query, Tensor key, Tensor value, int layer, float? scaling, int? window, float? softcap, "
    "Tensor? sinks) -> Tensor"
)
_library.impl("attend", _attend_pieces, "CompositeExplicitAutograd")
