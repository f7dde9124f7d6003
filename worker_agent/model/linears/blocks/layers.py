"""Linear layers and embeddings over weights in blocks.

Few rows of input are multiplied with the blocks as they are; for many, the matrix is unfolded a piece at a time into
the type of the rows, which is faster from some number of rows on: `racing.py` finds it. The pieces are multiplied by
torch's own kernels, or by ours where the processor multiplies tiles of bfloat16: they need no way through memory then
(`tiles.h`).
"""

from __future__ import annotations

import itertools
import weakref

import torch
from torch import nn
from torch.nn.functional import linear

from worker_agent.model.linears.blocks import building
from worker_agent.model.linears.blocks.formats import NUMBERS, Blocks
from worker_agent.model.linears.blocks.racing import NEVER, first_of_many
from worker_agent.model.linears.packed import being_recorded

LEAST_WIDENED = 4
"""For fewer rows torch's own product with a matrix of bfloat16 is as fast as ours, or a little faster."""
TILE_ELEMENTS = 1024 * 1024
"""Weights that are unfolded at a time: 4 MB, which the caches hold."""
PLAIN = NUMBERS["BF16"]
LOSSES = {torch.bfloat16: 2.0**-13, torch.float16: 2.0**-16, torch.float32: 2.0**-20}
"""Which part of a row of input may be lost while it is multiplied (root mean square; `integers.h`). Of halves it is a
64th of what the type itself rounds to; of float32 less than another order of its sums makes of the result."""


class BlockLinear(nn.Module):
    """`nn.Linear` over weights in blocks."""

    def __init__(self, blocks: Blocks, bias: torch.Tensor | None, dtype: torch.dtype, *, exactly: bool = False) -> None:
        """`exactly`: the matrix is never unfolded into `dtype`, which would change its numbers too much."""
        super().__init__()
        self.in_features, self.out_features, self.bias = blocks.columns, blocks.rows, bias
        self.blocks = blocks
        self.many = NEVER if exactly else first_of_many(blocks, dtype, times, times_unfolded)
        """From how many rows of input on the matrix is unfolded."""
        self._handle = next(_handles)
        _layers[self._handle] = self

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        if being_recorded():
            recorded: torch.Tensor = torch.ops.shardboard.block_linear(rows, self._handle)
            return recorded
        return self.run(rows)

    def run(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        flat = rows.reshape(-1, self.in_features)
        result = (times if flat.shape[0] < self.many else times_unfolded)(self.blocks, flat)
        if self.bias is not None:
            result += self.bias
        return result.view(*rows.shape[:-1], self.out_features)


class BlockEmbedding(nn.Module):
    """`nn.Embedding` over a table in blocks."""

    def __init__(self, blocks: Blocks, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = blocks.rows, blocks.columns
        self.blocks, self._dtype = blocks, dtype
        self._handle = next(_handles)
        _embeddings[self._handle] = self

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [...] -> [..., width]. Raises IndexError for a token that is not in the table."""
        if being_recorded():  # what is asked of the ids below would look like a pass that depends on the numbers
            recorded: torch.Tensor = torch.ops.shardboard.block_embedding(ids, self._handle)
            return recorded
        return self.run(ids)

    def run(self, ids: torch.Tensor) -> torch.Tensor:
        """The same."""
        flat = ids.reshape(-1).long()
        if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < self.num_embeddings:
            raise IndexError(f"a token is not within the table's {self.num_embeddings}")
        return self.blocks.chosen(flat).to(self._dtype).view(*ids.shape, self.embedding_dim)


def times(blocks: Blocks, rows: torch.Tensor) -> torch.Tensor:
    """rows [n, columns] times the transposed matrix, with the blocks as they are: [n, rows of the matrix]."""
    kernels = building.kernels()
    if kernels is None:
        return times_unfolded(blocks, rows)
    dtype, count, kind = rows.dtype, rows.shape[0], NUMBERS[blocks.format]
    if kind == PLAIN and dtype == torch.bfloat16 and count < LEAST_WIDENED:
        return linear(rows, blocks.data.view(torch.bfloat16))
    if count > kernels.few(kind):
        return kernels.multiply(kind, blocks.data, rows.float().contiguous()).to(dtype)
    given = rows if dtype in (torch.float32, torch.bfloat16) else rows.float()
    return kernels.multiply_few(kind, blocks.data, given.contiguous(), LOSSES[dtype]).to(dtype)


def times_meant(blocks: Blocks, rows: torch.Tensor) -> torch.Tensor:
    """The same by torch alone, with the float32 numbers that the blocks mean: what the other ways are compared with."""
    return times_unfolded(blocks, rows.float()).to(rows.dtype)


def times_unfolded(blocks: Blocks, rows: torch.Tensor) -> torch.Tensor:
    """The same, with the weights rounded to the type of `rows`: on one piece of the matrix after another."""
    kernels = building.kernels()
    if rows.dtype == torch.bfloat16 and kernels is not None and kernels.has_tiles:
        return kernels.multiply_tiles(NUMBERS[blocks.format], blocks.data, rows.contiguous())
    step = max(1, TILE_ELEMENTS // blocks.columns)
    into = torch.empty(rows.shape[0], blocks.rows, dtype=rows.dtype)
    for start in range(0, blocks.rows, step):
        tile = blocks.unfolded(start, min(start + step, blocks.rows)).to(rows.dtype)
        into[:, start : start + step] = rows @ tile.T
    return into


_layers: weakref.WeakValueDictionary[int, BlockLinear] = weakref.WeakValueDictionary()
"""Layers by handle: a recording holds the handle, since TorchScript knows tensors alone."""
_embeddings: weakref.WeakValueDictionary[int, BlockEmbedding] = weakref.WeakValueDictionary()
_handles = itertools.count()


def _block_linear(rows: torch.Tensor, handle: int) -> torch.Tensor:
    return _layers[handle].run(rows)


_library = torch.library.Library("shardboard", "FRAGMENT")
_library.define("block_linear(Tensor rows, int handle) -> Tensor")
_library.impl("block_linear", _block_linear, "CompositeExplicitAutograd")


def _block_embedding(ids: torch.Tensor, handle: int) -> torch.Tensor:
    return _embeddings[handle].run(ids)


_library.define("block_embedding(Tensor ids, int handle) -> Tensor")
_library.impl("block_embedding", _block_embedding, "CompositeExplicitAutograd")
