"""Attention for one token of each of many sequences, whose rows lie in pages: the same calls whatever they hold.

Which pages, how many rows and where the new ones go are tensors, and no shape depends on them, so that a GPU can run
what was captured once for other sequences and other lengths (`static.py`). Rows are gathered from their pages, as many
for each sequence as the longest may have, and what a sequence does not see is hidden by a mask; of a layer with a
sliding window only the pages that may be seen are gathered.

torch's kernel that reads pages by itself takes pages of 256 tokens and more, which would set aside 128 tokens a
sequence for nothing; its flex attention has to be compiled on the node.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from worker_agent.engine.memory.pages import PagePool
from worker_agent.engine.memory.rows import Kept, Pair
from worker_agent.engine.plain_attention import attend_plainly


class Decoding:
    """Where the tokens of a step go, and what each of them sees.

    Args:
        pool: whose pages.
        page: [rows], into which page each token's keys and values go.
        offset: [rows], at which place of it.
        seen: [rows], how many tokens each sees, itself included.
        table: [rows, pages], the pages of each sequence in order.
    """

    def __init__(
        self, pool: PagePool, page: torch.Tensor, offset: torch.Tensor, seen: torch.Tensor, table: torch.Tensor
    ) -> None:
        self.pool, self._page, self._offset, self._seen, self._table = pool, page, offset, seen, table
        self._visible: dict[int | None, tuple[torch.Tensor, torch.Tensor]] = {}

    def begin(self) -> None:
        """A pass begins: what depends on the tensors is computed anew in it."""
        self._visible.clear()

    def put(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Kept:
        """Put keys and values [kv heads, rows, width] where they belong; what is kept of the layer."""
        new = self.pool.as_kept(key, value)
        kept = self.pool.kept(layer, new)
        for into, each in zip(kept, new, strict=True):
            into[self._page, :, self._offset] = each.transpose(0, 1)
        return kept

    def visible(self, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The pages that are looked at, [rows, pages], and what of their rows is seen, [rows, 1, 1, rows of pages]."""
        if window not in self._visible:
            self._visible[window] = self._look(window)
        return self._visible[window]

    def _look(self, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        table, seen = self._table, self._seen[:, None]
        device, first, size = table.device, torch.zeros_like(seen), self.pool.page_tokens
        if window is not None and (count := self.pool.in_pages(window) + 1) < table.shape[1]:
            first = ((seen - window).clamp_min(0) // size).clamp_max(table.shape[1] - count)
            table = table.gather(1, first + torch.arange(count, device=device))
        places = first * size + torch.arange(table.shape[1] * size, device=device)
        visible = places < seen
        if window is not None:
            visible &= places >= seen - window
        return table, visible[:, None, None]


def attend_decoding(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    step: Decoding,
) -> torch.Tensor:
    """One token of each sequence: query [1, heads, rows, width] over the pages, to which key and value
    [1, kv heads, rows, width] are added first. Returns [1, rows, heads, value width]."""
    _, heads, rows, width = query.shape
    kept = step.put(layer, key[0], value[0])
    table, visible = step.visible(window)
    keys, values = _unfolded([each[table].transpose(1, 2).flatten(2, 3) for each in kept], query.dtype)
    grouped = query[0].transpose(0, 1).reshape(rows, key.shape[1], heads // key.shape[1], width)
    if softcap is None and sinks is None:
        output = scaled_dot_product_attention(grouped, keys, values, attn_mask=visible, scale=scaling)
    else:
        own = None if sinks is None else sinks.reshape(1, key.shape[1], -1, 1)
        output = attend_plainly(grouped, keys, values, visible, scaling, softcap, own)
    return output.reshape(1, rows, heads, value.shape[-1])


def _unfolded(gathered: list[torch.Tensor], dtype: torch.dtype) -> Pair:
    """Keys and values as numbers, of what was gathered: [rows, heads, tokens, width] each."""
    if len(gathered) == 2:
        return gathered[0], gathered[1]
    keys, key_scales, values, value_scales = gathered  # scales: [rows, 1, tokens, heads]
    return (keys * key_scales.transpose(1, 3)).to(dtype), (values * value_scales.transpose(1, 3)).to(dtype)
