"""Attention and its masks in outline: nothing is computed, and what they were given is noted.

Registered with transformers under names of their own (`OUTLINE`, `MASKED_OUTLINE`), which a probe gives the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from worker_agent.model.provenance import tensors_in

FAR = 1 << 24
"""A position that no window reaches back from to the first token."""

TROUBLE = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, NotImplementedError)
"""What models raise that cannot run without numbers, or do not know an argument."""


@dataclass
class SeenAttention:
    """What the outlined attention was given in the run under way."""

    attended: dict[int, int] = field(default_factory=dict)
    functions: dict[int, Callable[..., Any]] = field(default_factory=dict)
    """id of a mask -> which (batch, head, query, key) it lets see."""
    masks: dict[int, bool] = field(default_factory=dict)
    visible: dict[int, Callable[..., Any]] = field(default_factory=dict)
    """Layer -> the function of its mask."""
    windows: dict[int, int | None] = field(default_factory=dict)
    """Layer -> the window that the attention function was told of."""
    looks_ahead: bool = False
    alive: list[torch.Tensor] = field(default_factory=list)
    """Keeps ids unique during the run."""


_attention = SeenAttention()


def watch_attention() -> SeenAttention:
    """What the outlined attention is given from now on, until this is asked for again."""
    global _attention
    _attention = SeenAttention()
    return _attention


def _outline_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *_args: Any,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Stands in for attention: notes what it was given and returns the right shape, [1, tokens, heads, width]."""
    for given in tensors_in(others):
        given.clone()  # attention computes with it, so where it comes from has to be seen
    layer = getattr(module, "layer_idx", None)
    if layer is not None:
        _attention.attended[layer] = (key.numel() + value.numel()) // key.shape[2]
        _attention.windows[layer] = sliding_window
        visible = _attention.functions.get(id(attention_mask))
        if visible is not None:
            _attention.visible[layer] = visible
        known = None if visible is None else is_window(visible, sliding_window)
        if known is not None:
            _attention.masks[layer] = _attention.masks.get(layer, True) and known
        elif visible is None and attention_mask is not None:
            _attention.masks[layer] = False  # made from more than positions
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


def _outline_mask(
    batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Any], device: Any = "meta", **_: Any
) -> torch.Tensor:
    """Stands in for making a mask: remembers by which function."""
    mask = torch.empty(batch_size, 1, q_length, kv_length, dtype=torch.bool, device=device)
    _attention.functions[id(mask)] = mask_function
    _attention.alive.append(mask)
    _attention.looks_ahead |= sees(mask_function, 0, 1) is True
    return mask


def is_window(visible: Callable[..., Any], window: int | None) -> bool | None:
    """Whether a mask lets a token see itself and those before it, within the window if there is one, and no other.

    None where that depends on more than positions.
    """
    reach = FAR if window is None else min(window, FAR)
    seen = [sees(visible, FAR, FAR - back) for back in (0, 1, reach // 2, reach - 1) if back < reach]
    hidden = [sees(visible, FAR, FAR + 1)] + ([] if window is None else [sees(visible, FAR, FAR - reach)])
    if None in seen or None in hidden:
        return None
    return all(seen) and not any(hidden)


def sees(visible: Callable[..., Any], query: int, key: int) -> bool | None:
    """Whether the token at `query` sees that at `key`; None where that depends on numbers."""
    try:
        return bool(visible(0, 0, torch.tensor(query), torch.tensor(key)))
    except TROUBLE:
        return None


OUTLINE, MASKED_OUTLINE = "shardboard_outline", "shardboard_masked_outline"
AttentionInterface.register(OUTLINE, _outline_attention)
AttentionInterface.register(MASKED_OUTLINE, _outline_attention)
AttentionMaskInterface.register(MASKED_OUTLINE, _outline_mask)
