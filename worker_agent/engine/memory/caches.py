"""Memory for keys and values: how much there is, which sequence holds how much of it, and where it lies.

Two kinds of cache, both one per sequence: `RowCache` for the ragged batch (rows of keys and values that
the attention function reads in place) and `OwnCache` for the architectures that run one sequence at a time
with transformers' own cache.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedConfig

from worker_agent.wire.errors import OutOfMemory

GROWTH_TOKENS = 256
"""A sequence's rows grow in steps of at least this many tokens, doubling, so that copying stays amortised."""


class KvBudget:
    """Counts the tokens that sequences may put into the cache, so that memory never runs out in mid-answer."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._held: dict[int, int] = {}

    @property
    def reserved(self) -> int:
        return sum(self._held.values())

    @property
    def free(self) -> int:
        return self.tokens - self.reserved

    def reserve(self, sequence: int, tokens: int) -> None:
        """Set tokens aside for a sequence. Raises OutOfMemory."""
        if tokens > self.free:
            raise OutOfMemory(f"the KV cache has {self.free} tokens free, the sequence needs {tokens}")
        self._held[sequence] = tokens

    def release(self, sequence: int) -> None:
        self._held.pop(sequence, None)


class RowCache:
    """Keys and values of one sequence on this stage, for the ragged batch.

    Per layer a pair of tensors [1, kv heads, capacity, width], of which the first `length` rows are filled.
    """

    def __init__(self, capacity: int, growth: int = GROWTH_TOKENS) -> None:
        self.capacity = capacity
        self._growth = growth
        self.length = 0
        """Tokens whose keys and values are complete on every layer of the stage."""
        self._rows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that its rows take now."""
        return sum(keys.nbytes + values.nbytes for keys, values in self._rows.values())

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store `key` and `value` [kv heads, tokens, width] after the filled rows.

        Returns all keys and values so far, [1, kv heads, length + tokens, width].
        """
        count = key.shape[1]
        keys, values = self._room(layer, count, key, value)
        keys[0].narrow(1, self.length, count).copy_(key)
        values[0].narrow(1, self.length, count).copy_(value)
        return keys.narrow(2, 0, self.length + count), values.narrow(2, 0, self.length + count)

    def append_one(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`append` for a single token, [kv heads, width]: a decode step calls this for every layer and sequence."""
        keys, values = self._room(layer, 1, key, value)
        keys.select(2, self.length).copy_(key)
        values.select(2, self.length).copy_(value)
        return keys.narrow(2, 0, self.length + 1), values.narrow(2, 0, self.length + 1)

    def _room(
        self, layer: int, count: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's rows, grown if `count` more would not fit. `key` and `value` give heads, widths and type."""
        rows = self._rows.get(layer)
        if rows is None or rows[0].shape[2] < self.length + count:
            rows = self._rows[layer] = self._grown(rows, key, value, self.length + count)
        return rows

    def _grown(
        self, rows: tuple[torch.Tensor, torch.Tensor] | None, key: torch.Tensor, value: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        held = 0 if rows is None else rows[0].shape[2]
        size = max(end, min(self.capacity, max(2 * held, end + self._growth)))
        grown = tuple(new.new_empty(1, new.shape[0], size, new.shape[-1]) for new in (key, value))
        if rows is not None:
            for old, new in zip(rows, grown, strict=True):
                new[:, :, : self.length] = old[:, :, : self.length]
        return grown[0], grown[1]


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


class OwnCache(DynamicCache):
    """transformers' own cache for one sequence, told how long the sequence is.

    Layers of other stages never fill here; asked for their length, the cache answers as if they had.
    """

    def __init__(self, config: PreTrainedConfig, owned: Collection[int]) -> None:
        super().__init__(config=config)
        self._owned = sorted(owned)
        self.length = 0
        """Tokens that every owned layer has seen."""

    @property
    def nbytes(self) -> int:
        """Bytes that its layers take now, whatever they keep."""
        return sum(
            tensor.nbytes for layer in self.layers for tensor in _tensors(vars(layer)) if tensor.device.type != "meta"
        )

    def _stand_in(self, layer: int) -> int | None:
        """An owned layer of the same kind (sliding or full) as `layer`, if there is one."""
        if layer in self._owned:
            return layer
        if layer < len(self.layers):
            for other in self._owned:
                if other < len(self.layers) and type(self.layers[other]) is type(self.layers[layer]):
                    return other
        return None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        stand_in = self._stand_in(layer_idx)
        if stand_in is None or stand_in >= len(self.layers):
            return self.length + query_length, 0
        return super().get_mask_sizes(query_length, stand_in)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


__all__ = ["Cache", "KvBudget", "OwnCache", "RaggedCache", "RowCache"]
