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

from worker_agent.errors import CannotSplit
from worker_agent.kv_cache import RowCache

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
    pieces: Sequence[Piece] = _running.pieces
    outputs = []
    for piece in pieces:
        keys, values = piece.cache.append(
            layer, key[0, :, piece.start : piece.end], value[0, :, piece.start : piece.end]
        )
        outputs.append(
            _attend(query[0, :, piece.start : piece.end], keys, values, scaling, sliding_window, softcap, s_aux)
        )
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined[None], None


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One sequence: query [heads, new, width] over keys, values [kv heads, all, width] -> [new, heads, width]."""
    heads, new, width = query.shape
    kv_heads, total, _ = keys.shape
    if new == 1 and window is not None and total > window:
        keys, values, total = keys[:, -window:], values[:, -window:], window
    if softcap is not None or sinks is not None:
        return _plain(query, keys, values, scaling, window, softcap, sinks)
    if new == 1:
        # One token looks at everything: no mask, and the query heads of a group are rows of one matrix.
        grouped = query.reshape(1, kv_heads, heads // kv_heads, width)
        out = scaled_dot_product_attention(grouped, keys[None], values[None], scale=scaling)
        return out.reshape(1, heads, values.shape[-1])
    whole = new == total and (window is None or total <= window)
    mask = None if whole else visible(new, total, window, query.device)
    out = scaled_dot_product_attention(
        query[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=whole,
        scale=scaling,
        enable_gqa=heads != kv_heads,
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
