"""Keys and values of the ragged batch in pages, which stay where they are for as long as the stage lives.

What is captured on a GPU (`engine/static.py`) is run again over the addresses that it was captured with, so rows may
not move, as those do that grow by copying (`rows.py`); and a GPU promises no memory that it may not have. So the rows
of all sequences lie in one tensor for each layer, [pages, heads, PAGE_TOKENS, width], as large as the deployment set
aside. A sequence has whichever pages are free, and a table says which. The scheduler counts tokens in blocks of whole
pages, so there is a page for each that it gives away.

Page 0 is nobody's: rows that only fill up a step are written there, and what a table does not name is read from there,
hidden by the mask. A page that is given back becomes zeros, and so does what is cut off or was copied too much at the
end of one: what is hidden is multiplied by nothing, and nothing times infinity is no number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch

from worker_agent.engine.memory.rows import NAMES, Kept, RowPool, RowState
from worker_agent.engine.memory.states import Exported, SequenceState, check_cut
from worker_agent.wire.errors import OutOfMemory

PAGE_TOKENS = 32
"""As many as the scheduler's smallest blocks have, of which all others are multiples."""
NOBODYS = 0
"""The page that no sequence has."""


class PagePool(RowPool):
    """The rows of all sequences of a stage, in pages.

    Args:
        slots: sequences that may have rows at once.
        capacity: tokens that a sequence may come to.
        tokens: those that all of them may come to.
        int8: whether they are kept in int8.
        page_tokens: how many tokens' rows a page has.
    """

    def __init__(
        self, slots: int, capacity: int, tokens: int, *, int8: bool = False, page_tokens: int = PAGE_TOKENS
    ) -> None:
        super().__init__(slots, capacity, int8=int8)
        self.page_tokens = page_tokens
        self.pages = 1 + self.in_pages(tokens)
        self.table = torch.full((slots, max(1, self.in_pages(capacity))), NOBODYS)
        """Of each slot its pages in order, in main memory."""
        self._unused = list(range(self.pages - 1, NOBODYS, -1))

    @property
    def batches(self) -> bool:
        return False

    def in_pages(self, tokens: int) -> int:
        """How many pages so many tokens take."""
        return -(-tokens // self.page_tokens)

    @property
    def page_bytes(self) -> int:
        """What a page takes in all layers."""
        return sum(each[0].nbytes for kept in self._layers.values() for each in kept)

    @property
    def layers(self) -> dict[int, Kept]:
        """What is kept of each layer that has run: [pages, heads, tokens of a page, width] each."""
        return self._layers

    def kept(self, layer: int, like: Kept) -> Kept:
        """What is kept of a layer; `like`, [heads, any, width] each, gives heads, widths, types and the device."""
        if (kept := self._layers.get(layer)) is None:
            with torch.inference_mode(False):  # pages are given back between steps, too
                kept = tuple(
                    torch.zeros(
                        self.pages, new.shape[0], self.page_tokens, new.shape[-1], dtype=new.dtype, device=new.device
                    )
                    for new in like
                )
            self._layers[layer] = kept
        return kept

    def take(self) -> int:
        """A page that nobody has. Raises OutOfMemory."""
        if not self._unused:
            raise OutOfMemory(f"all {self.pages - 1} pages of {self.page_tokens} tokens of the KV cache are taken")
        return self._unused.pop()

    def give_back(self, pages: Iterable[int]) -> None:
        """Pages that a sequence had are free."""
        if not (free := [page for page in pages if page != NOBODYS]):
            return
        for kept in self._layers.values():
            for each in kept:
                each.index_fill_(0, torch.tensor(free, device=each.device), 0)
        self._unused += free

    def close(self) -> None:
        super().close()
        self._unused = []

    def _state(self, slot: int) -> PagedState:
        return PagedState(self, slot)


class PagedState(RowState):
    """Keys and values of one sequence, in pages of the pool."""

    pool: PagePool

    def __init__(self, pool: PagePool, slot: int) -> None:
        super().__init__(pool, slot)
        self.pages: list[int] = []
        self._stands_in = False
        pool.table[slot] = NOBODYS

    @property
    def nbytes(self) -> int:
        return len(self.pages) * self.pool.page_bytes

    @property
    def token_bytes(self) -> int:
        return self.pool.page_bytes // self.pool.page_tokens

    def reach(self, length: int) -> None:
        """Have pages for so many tokens. Raises OutOfMemory."""
        if length > self.pool.capacity:
            raise OutOfMemory(f"a sequence came to {length} tokens, its rows have room for {self.pool.capacity}")
        while len(self.pages) < self.pool.in_pages(length):
            page = NOBODYS if self._stands_in else self.pool.take()
            self.pool.table[self.slot, len(self.pages)] = page
            self.pages.append(page)

    def stand_in(self, length: int) -> None:
        self._stands_in = True
        super().stand_in(length)

    def truncate(self, length: int) -> None:
        super().truncate(length)
        self._leave(self.pool.in_pages(length))
        self._clear_behind(length)

    def copy_from(self, other: SequenceState, length: int) -> None:
        check_cut(other, length)
        self.reach(length)
        for kept in self.pool.layers.values():
            for each in kept:
                each[self._index(each.device)] = each[cast(PagedState, other)._index(each.device, len(self.pages))]
        self._clear_behind(length)
        self.length = length

    def exported(self, start: int = 0, end: int | None = None) -> Exported:
        if not self.length:
            return {}
        end = self.length if end is None else end
        return {
            f"{layer}.{name}": rows[0, :, start:].contiguous()
            for layer, kept in self.pool.layers.items()
            for name, rows in zip(NAMES[self.pool.int8], self._rows_of(kept, end), strict=True)
        }

    def release(self) -> None:
        self._leave(0)
        super().release()

    def keep(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Kept:
        new = self.pool.as_kept(key, value)
        self._fill(layer, new)
        return self._rows_of(self.pool.kept(layer, new), self.length + key.shape[1])

    def append_one(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.append(layer, key[0], value[0])

    def _fill(self, layer: int, kept: Kept) -> None:
        end = self.length + kept[0].shape[1]
        self.reach(end)
        places, size = torch.arange(self.length, end), self.pool.page_tokens
        pages, offsets = self.pool.table[self.slot, places // size], places % size
        for into, each in zip(self.pool.kept(layer, kept), kept, strict=True):
            into[pages.to(into.device), :, offsets.to(into.device)] = each.transpose(0, 1)

    def _rows_of(self, kept: Kept, end: int) -> Kept:
        """The first `end` rows of a layer, [1, heads, end, width] each, gathered from their pages."""
        pages = self.pool.in_pages(end)
        return tuple(
            each[self._index(each.device, pages)].transpose(0, 1).flatten(1, 2)[None].narrow(2, 0, end) for each in kept
        )

    def _index(self, device: torch.device, count: int | None = None) -> torch.Tensor:
        """Its pages, or the first of them."""
        return self.pool.table[self.slot, : len(self.pages) if count is None else count].to(device)

    def _forget(self, length: int) -> None:
        pass  # pages that are left become zeros, and the last one is cleared

    def _clear_behind(self, length: int) -> None:
        """Make zeros of what the last page has behind so many tokens."""
        if offset := length % self.pool.page_tokens:
            for kept in self.pool.layers.values():
                for each in kept:
                    each[self.pages[-1], :, offset:] = 0

    def _leave(self, count: int) -> None:
        """Give back all pages but the first `count`."""
        if count < len(self.pages):
            self.pool.give_back(self.pages[count:])
            self.pool.table[self.slot, count:] = NOBODYS
            del self.pages[count:]
