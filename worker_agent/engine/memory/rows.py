"""Keys and values of the ragged batch: rows that the attention function writes and reads in place.

A pool has for each layer one tensor of keys and one of values, [slots, kv heads, capacity, width], in a region of
address space (`region.py`); a sequence has a slot of it. Rows lie one behind the other for each head, since that is
what attention reads fastest on a CPU, by 1 to 1.5 times over rows that lie one behind the other for each token, and by
1.2 to 2.7 times over blocks that must be gathered first (benchmarks/kv_layout.py). And the slots of one tensor can be
attended to by one call for many sequences.

Where memory cannot be promised (other systems) each sequence has tensors of its own, which grow by copying; where what
computes wants them to stay where they are (GPUs), they lie in pages (`pages.py`).

Kept in int8, each row (one head's key or value of one token) has a scale: its largest number is 127 times that. The
scales of all heads lie one behind the other for each token, so that they fill pages.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from typing import Any, cast

import torch
from transformers import DynamicCache

from worker_agent.engine.memory.region import Region, page_bytes, reserve
from worker_agent.engine.memory.states import Exported, SequenceState, check_cut, next_version
from worker_agent.wire.errors import OutOfMemory, OutOfStep

GROWTH_TOKENS = 256
"""Rows that grow by copying do so in steps of at least this many tokens, doubling, so that it stays amortised."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values."""
Kept = tuple[torch.Tensor, ...]
"""What is kept of them: the two, or in int8 keys, their scales, values, and their scales."""
NAMES = {False: ("keys", "values"), True: ("keys", "key_scales", "values", "value_scales")}
"""What these are called when they are exported, by whether they are kept in int8."""


def in_int8(rows: torch.Tensor) -> Pair:
    """Rows [heads, tokens, width] as int8, and their scales [1, tokens, heads] in float32."""
    rows = rows.float()
    scales = rows.abs().amax(-1, keepdim=True).div_(127).clamp_min_(torch.finfo(torch.float32).tiny)
    return rows.div(scales).round_().to(torch.int8), scales[None, ..., 0].transpose(1, 2)


def from_int8(rows: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The numbers that rows [heads, tokens, width] mean with scales [1, tokens, heads]."""
    return rows.to(torch.float32).mul_(scales.transpose(1, 2)[0, ..., None]).to(dtype)


class RaggedCache(DynamicCache):
    """What a model is given as its cache when the attention function keeps the rows itself: it stores nothing."""

    def __init__(self) -> None:
        super().__init__()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class RowPool:
    """The rows of all sequences of a stage.

    Args:
        slots: sequences that may have rows at once.
        capacity: tokens that a sequence may come to.
        growth: where rows grow by copying, by so many tokens at least.
        reserved: whether to take address space for all of them, where the system allows it.
        int8: whether they are kept in int8.
    """

    def __init__(
        self, slots: int, capacity: int, *, growth: int = GROWTH_TOKENS, reserved: bool = True, int8: bool = False
    ) -> None:
        self.slots, self.capacity, self.growth, self.int8 = slots, capacity, growth, int8
        self.grows = not reserved
        """Whether each sequence has tensors of its own, which grow by copying."""
        self._free = list(range(slots))
        self._layers: dict[int, Kept] = {}
        self._regions: list[Region] = []

    def state(self, slot: int = -1) -> RowState:
        """The empty state of a new sequence, in the first free slot: those that run stand close together.

        Args:
            slot: which one instead, where it has to be that.

        Raises OutOfMemory.
        """
        if not self._free:
            raise OutOfMemory(f"all {self.slots} slots of the KV cache are taken")
        if slot < 0:
            return self._state(heapq.heappop(self._free))
        if slot not in self._free:
            raise OutOfMemory(f"slot {slot} of the KV cache is not free")
        self._free.remove(slot)
        heapq.heapify(self._free)
        return self._state(slot)

    def _state(self, slot: int) -> RowState:
        return RowState(self, slot)

    @property
    def batches(self) -> bool:
        """Whether one call may attend for many sequences: their rows are in one tensor, as they are computed."""
        return not self.grows and not self.int8

    def layer(self, layer: int) -> Pair | None:
        """Keys and values [slots, kv heads, capacity, width] of all sequences, of a pool that `batches`; None where
        there are none."""
        kept = self._layers.get(layer)
        return None if kept is None else (kept[0], kept[1])

    def as_kept(self, key: torch.Tensor, value: torch.Tensor) -> Kept:
        """Rows [kv heads, tokens, width] as they are kept."""
        if not self.int8:
            return key, value
        if key.shape != value.shape:
            return *in_int8(key), *in_int8(value)
        rows, scales = in_int8(torch.cat((key, value)))  # both at once: a step of one token is made of small calls
        (keys, values), (key_scales, value_scales) = rows.chunk(2), scales.chunk(2, dim=-1)
        return keys, key_scales, values, value_scales

    def rows(self, layer: int, slot: int, like: Kept) -> Kept | None:
        """The rows [1, heads, capacity, width] of a slot; `like` gives heads, widths and types."""
        if self.grows:
            return None
        rows = self._layers.get(layer)
        if rows is None:
            rows = self._reserved(like)
            if rows is None:
                self.grows = True
                return None
            self._layers[layer] = rows
        return tuple(each.narrow(0, slot, 1) for each in rows)

    def _reserved(self, like: Kept) -> Kept | None:
        if like[0].device.type != "cpu":
            return None
        regions = []
        for new in like:
            row = new.shape[-1] * new.dtype.itemsize
            # A slot is a whole number of pages, so that its memory can be given back by itself.
            unit = page_bytes() // math.gcd(row, page_bytes())
            tokens = -(-self.capacity // unit) * unit
            region = reserve((self.slots, new.shape[0], tokens, new.shape[-1]), new.dtype)
            if region is None:
                return None
            regions.append(region)
        self._regions += regions
        return tuple(region.tensor for region in regions)

    def free(self, slot: int) -> None:
        """Give the memory of a slot back to the system, and the slot to the next sequence."""
        for region in self._regions:
            nbytes = region.tensor[0].nbytes
            region.give_back(slot * nbytes, nbytes)
        heapq.heappush(self._free, slot)

    def cut(self, slot: int, start: int, end: int) -> None:
        """Rows `[start, end)` of a slot, its last ones, read as zeros; whole pages of them go back to the system."""
        page = page_bytes()
        for region in self._regions:
            _, heads, tokens, width = region.tensor.shape
            row = width * region.tensor.dtype.itemsize
            first, last = -(-start * row // page) * page, -(-end * row // page) * page
            region.tensor[slot, :, start : min(end, -(-first // row))].zero_()
            if last > first:
                for head in range(heads):
                    region.give_back((slot * heads + head) * tokens * row + first, last - first)

    def close(self) -> None:
        self._layers.clear()
        self._regions.clear()


class RowState(SequenceState):
    """Keys and values of one sequence.

    Per layer tensors [1, heads, room, width], of which the first `length` rows are filled.
    """

    takes_parts = True

    def __init__(self, pool: RowPool, slot: int) -> None:
        super().__init__()
        self.pool, self.slot = pool, slot
        self.length = 0
        self._rows: dict[int, Kept] = {}
        self._heads = Counter[int]()
        """How many heads, over all layers, have so many bytes a token."""

    @property
    def nbytes(self) -> int:
        if self.pool.grows:
            return sum(tensor.nbytes for kept in self._rows.values() for tensor in kept)
        page = page_bytes()
        return sum(heads * -(-self.length * row // page) * page for row, heads in self._heads.items())

    @property
    def token_bytes(self) -> int:
        return sum(heads * row for row, heads in self._heads.items())

    def can_be_cut(self, length: int) -> bool:
        return True

    def truncate(self, length: int) -> None:
        check_cut(self, length)
        if length < self.length:
            self.version = next_version()
            self._forget(length)
        self.length = length

    def _forget(self, length: int) -> None:
        """Make zeros of the rows behind so many: a call for many sequences multiplies those that it hides by nothing,
        and nothing times infinity is no number. Their memory goes back to the system, where it is the system's."""
        if not self.pool.grows:
            self.pool.cut(self.slot, length, self.length)
            return
        for kept in self._rows.values():
            for each in kept:
                each[0, :, length : self.length].zero_()

    def copy_from(self, other: SequenceState, length: int) -> None:
        check_cut(other, length)
        for layer, kept in cast(RowState, other)._rows.items():
            self._fill(layer, tuple(each[0, :, :length] for each in kept))
        self.length = length

    def exported(self, start: int = 0, end: int | None = None) -> Exported:
        found = {}
        for layer, kept in self._rows.items():
            for name, tensor in zip(NAMES[self.pool.int8], kept, strict=True):
                found[f"{layer}.{name}"] = tensor[0, :, start : self.length if end is None else end].contiguous()
        return found

    def imported(self, tensors: Exported, length: int) -> None:
        for layer in sorted({int(name.partition(".")[0]) for name in tensors}):
            found = [tensors.get(f"{layer}.{name}") for name in NAMES[self.pool.int8]]
            kept = tuple(each for each in found if each is not None and each.shape[1] == length - self.length)
            if len(kept) < len(found) or (kept[0].dtype == torch.int8) != self.pool.int8:
                raise OutOfStep(f"what was exported holds no keys and values up to token {length} for layer {layer}")
            self._fill(layer, kept)
        self.length = length

    def stand_in(self, length: int) -> None:
        """Be, while empty, as long as that and hold nothing; what is read there means nothing."""
        self.length = length

    def release(self) -> None:
        self._rows.clear()
        self._heads.clear()
        self.pool.free(self.slot)

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Pair:
        """Store `key` and `value` [kv heads, tokens, width] after the filled rows.

        Returns all keys and values so far, [1, kv heads, length + tokens, width].
        """
        keys, values = self.keep(layer, key, value)
        return keys, values

    def keep(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Kept:
        """`append`, with what is returned as it is kept: [1, heads, length + tokens, width] each."""
        count, new = key.shape[1], self.pool.as_kept(key, value)
        rows = self._room(layer, count, new)
        for into, each in zip(rows, new, strict=True):
            into[0].narrow(1, self.length, count).copy_(each)
        return tuple(each.narrow(2, 0, self.length + count) for each in rows)

    def append_one(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Pair:
        """`append` for a single token, [1, kv heads, 1, width]: decoding calls this for every layer and sequence."""
        rows = self._rows.get(layer)
        if rows is None or rows[0].shape[2] <= self.length:
            rows = self._room(layer, 1, (key[0], value[0]))
        keys, values = rows
        keys.narrow(2, self.length, 1).copy_(key)
        values.narrow(2, self.length, 1).copy_(value)
        return keys.narrow(2, 0, self.length + 1), values.narrow(2, 0, self.length + 1)

    def hold(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Have room for one more token; `key` and `value` [kv heads, any, width] give heads, widths and type."""
        self._room(layer, 1, (key, value))

    def _fill(self, layer: int, kept: Kept) -> None:
        """Put rows [heads, tokens, width] behind those that are there."""
        count = kept[0].shape[1]
        for into, each in zip(self._room(layer, count, kept), kept, strict=True):
            into[0].narrow(1, self.length, count).copy_(each)

    def _room(self, layer: int, count: int, like: Kept) -> Kept:
        """The layer's rows, with room for `count` more. `like` gives heads, widths and types."""
        rows = self._rows.get(layer)
        if rows is None:
            for each in like:
                self._heads[each.shape[-1] * each.dtype.itemsize] += each.shape[0]
            rows = self.pool.rows(layer, self.slot, like)
            if rows is not None:
                self._rows[layer] = rows
        if rows is None or rows[0].shape[2] < self.length + count:
            rows = self._rows[layer] = self._grown(rows, like, self.length + count)
        return rows

    def _grown(self, rows: Kept | None, like: Kept, end: int) -> Kept:
        if not self.pool.grows or end > self.pool.capacity:
            raise OutOfMemory(f"a sequence came to {end} tokens, its rows have room for {self.pool.capacity}")
        held = 0 if rows is None else rows[0].shape[2]
        size = max(end, min(self.pool.capacity, max(2 * held, end + self.pool.growth)))
        grown = tuple(new.new_empty(1, new.shape[0], size, new.shape[-1]) for new in like)
        if rows is not None:
            for old, new in zip(rows, grown, strict=True):
                new[:, :, : self.length] = old[:, :, : self.length]
        return grown
