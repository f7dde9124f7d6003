"""Steps of one token of each sequence in a few fixed shapes, over tensors that stay where they are.

A step of as many rows as sequences happen to decode is filled up to the next of a few sizes, and the pages that the
longest of them has to the next of a few numbers of pages. For each such shape there are tensors into which a step's
numbers are put, by one copy, and a pass over them, captured where the device can do that (`capture.py`). Rows that
only fill up belong to nobody: they see one row, of the page that nobody has.

Everything but the capture itself is the same on every device, and is proven while a stage is loaded (`passes.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from worker_agent.engine.attention import decoding_step
from worker_agent.engine.capture import Capture, Pass
from worker_agent.engine.memory.pages import PagedState, PagePool
from worker_agent.engine.memory.rows import RaggedCache, RowState
from worker_agent.engine.paged_attention import Decoding
from worker_agent.model.slicing import Slice

LEAST_PAGES = 8
"""Shapes with fewer pages a sequence than that are not worth a graph of their own."""
_POSITION, _PAGE, _OFFSET, _SEEN, _TABLE = range(5)
"""The columns of a step's numbers; from the last on, the pages of each sequence."""


def size_for(count: int, least: int, most: int) -> int:
    """The size for so many: doubling from `least` on, and no more than `most`."""
    size = least
    while size < count:
        size *= 2
    return min(size, most)


class StaticSteps:
    """The shapes of a stage, made when the first step of each comes.

    Args:
        cut: what runs, through the layers that it is connected for.
        pool: where the sequences' rows lie.
        most: rows of the largest step.
        capture: makes of a pass over fixed tensors one that does the same.
    """

    def __init__(self, cut: Slice, pool: PagePool, most: int, capture: Capture, device: torch.device) -> None:
        self._cut, self._pool, self._most, self._capture, self._device = cut, pool, most, capture, device
        self._shapes: dict[tuple[int, int], _Shape] = {}

    def takes(self, counts: Sequence[int]) -> bool:
        """Whether a step with so many tokens of each sequence is one of them."""
        return len(counts) <= self._most and all(count == 1 for count in counts)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Those that have come so far, as (rows, pages of each)."""
        return list(self._shapes)

    def run(self, given: torch.Tensor, states: Sequence[RowState]) -> torch.Tensor:
        """The next token of each sequence; afterwards their states are longer by it.

        Args:
            given: token ids [rows] or hidden states [rows, hidden].
            states: of this pool.

        Returns:
            Hidden states [rows, hidden] or logits [rows, vocabulary], of every row.

        Raises:
            OutOfMemory: no page is left.
        """
        paged = cast(Sequence[PagedState], states)
        for state in paged:
            state.reach(state.length + 1)
        rows = size_for(len(paged), 1, self._most)
        longest = self._pool.in_pages(max(state.length for state in paged) + 1)
        pages = size_for(longest, LEAST_PAGES, self._pool.table.shape[1])
        shape = self._shapes.get((rows, pages))
        if shape is None:
            shape = _Shape(self._cut, self._pool, rows, pages, given)
            shape.fill(given, paged)
            shape.run = self._capture(shape.run)
            self._shapes[rows, pages] = shape
        else:
            shape.fill(given, paged)
        output = shape.run()[: len(paged)].clone()  # the next step's may lie in the same place
        for state in paged:
            state.length += 1
        return output


class _Shape:
    """The tensors of steps of so many rows and pages, and the pass over them."""

    def __init__(self, cut: Slice, pool: PagePool, rows: int, pages: int, like: torch.Tensor) -> None:
        device = like.device
        self._cut, self._pool = cut, pool
        self._given = like.new_zeros(rows, *like.shape[1:])
        self._host = torch.zeros(rows, _TABLE + pages, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._numbers = self._host.to(device)
        self._places = torch.arange(rows, device=device)
        numbers = self._numbers
        self._step = Decoding(
            pool, numbers[:, _PAGE], numbers[:, _OFFSET], numbers[:, _SEEN], numbers[:, _TABLE:]
        )  # fmt: skip
        self.run: Pass = self._run

    def fill(self, given: torch.Tensor, states: Sequence[PagedState]) -> None:
        """Put the numbers of a step into the tensors."""
        count, host, table, size = len(states), self._host, self._pool.table, self._pool.page_tokens
        slots = torch.tensor([state.slot for state in states])
        lengths = torch.tensor([state.length for state in states])
        mine = host[:count]
        mine[:, _POSITION] = lengths
        mine[:, _PAGE] = table[slots, lengths // size]
        mine[:, _OFFSET] = lengths % size
        mine[:, _SEEN] = lengths + 1
        mine[:, _TABLE:] = table[slots, : host.shape[1] - _TABLE]
        host[count:] = 0
        host[count:, _SEEN] = 1
        self._numbers.copy_(host)
        self._given[:count].copy_(given)
        self._given[count:] = 0

    def _run(self) -> torch.Tensor:
        self._step.begin()
        positions = self._numbers[:, _POSITION][None]
        with decoding_step(self._step):
            return self._cut.run(self._given[None], positions, self._places, RaggedCache())[0]
