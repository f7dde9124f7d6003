"""Attention written out as in transformers' eager code: what torch's own kernel cannot do, a soft cap (Gemma 2) and
sinks (gpt-oss), done the same for a prompt's tokens and for one token of each of many sequences."""

from __future__ import annotations

import torch


def attend_plainly(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    visible: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """What each row of a query sees of the values: [..., rows, value width].

    Args:
        query: [..., rows, width].
        keys: [..., tokens, width]; values likewise.
        visible: bool, of a shape that goes with [..., rows, tokens].
        scaling: of the scores; None for one over the root of the width.
        sinks: of a shape that goes with [..., rows, 1]: a score that takes part and stands for no token.
    """
    scores = torch.matmul(query, keys.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    if sinks is not None:
        scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1).to(scores.dtype)], dim=-1)
        scores = scores - scores.max(dim=-1, keepdim=True).values
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)[..., : keys.shape[-2]]
    return torch.matmul(weights, values)
