"""Attention over a ragged batch: many sequences of unlike length, laid end to end in one row of tokens.

Linear layers see all tokens of a step at once; attention goes sequence by sequence over its own rows, or, where each
has one token only, over the rows of many by one call; in steps of fixed shapes over their pages (`paged_attention.py`).
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

from worker_agent.engine.memory.rows import Kept, Pair, RowState, from_int8
from worker_agent.engine.paged_attention import Decoding, attend_decoding
from worker_agent.engine.plain_attention import attend_plainly
from worker_agent.model.linears import packed
from worker_agent.model.linears.packed import being_recorded
from worker_agent.wire.errors import CannotSplit

RAGGED = "shardboard_ragged"
"""The name under which transformers knows this implementation."""

_IGNORED = {"position_ids", "cache_position", "output_attentions", "use_cache", "output_router_logits", "is_causal"}
"""Tensors and flags that transformers passes along and that change nothing here."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens `[start, end)` of the step, which belong to one sequence."""

    state: RowState
    start: int
    end: int


MANY = 4
"""From so many sequences on with one token each, one call may attend for all of them."""


class Batch:
    """Sequences with one token each, whose slots are attended to by one call.

    The call goes over all slots from the first to the last of them, and over as many rows as the longest has; what is
    looked at in vain must not cost more than a call for each sequence would.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        slots = [segment.state.slot for segment in segments]
        self._lengths = [segment.state.length + 1 for segment in segments]
        self.pool = segments[0].state.pool
        self.first, self.span = min(slots), max(slots) - min(slots) + 1
        self.top = max(self._lengths)
        self.slots = torch.tensor(slots)
        self.places = self.slots - self.first
        """Where in the span each sequence stands."""
        self.last = torch.tensor(self._lengths) - 1
        """Where each token goes."""
        self.fresh = [segment.state for segment in segments if not segment.state.length]
        """Those whose first token it is: they have no rows yet."""
        self.in_order = slots == list(range(self.first, self.first + self.span))
        self._masks: dict[tuple[int | None, torch.dtype], torch.Tensor | None] = {}

    def pays(self, row_elements: int) -> bool:
        """Whether one call costs less than one for each, by what was measured (benchmarks/kv_layout.py).

        Args:
            row_elements: numbers in the keys of one token.
        """
        each = row_elements * NS_PER_ELEMENT
        together = self.span * (NS_SLOT + each * self.top)
        return together < sum(NS_CALL + each * length for length in self._lengths)

    def low(self, window: int | None) -> int:
        """The first row that any of them sees."""
        return 0 if window is None else max(0, min(self._lengths) - window)

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What each slot of the span may see: [span, 1, 1, rows from `low` to `top`], or None for all of it."""
        key = (window, dtype)
        if key not in self._masks:
            low = self.low(window)
            seen = torch.full((self.span,), self.top)  # a slot between them that has nothing to do here sees anything
            seen[self.places] = self.last
            rows = torch.arange(low, self.top)[None]
            hidden = rows > seen[:, None]
            if window is not None:
                hidden |= (rows <= seen[:, None] - window) & (seen[:, None] < self.top)
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
            self._masks[key] = mask[:, None, None] if bool(hidden.any()) else None
        return self._masks[key]


NS_CALL, NS_SLOT, NS_PER_ELEMENT = 35_000, 8_000, 0.9
"""What a call for one sequence costs, what a slot does in a call for many, and a number of a key in either, in ns."""

AT_A_TIME = 2**18
"""Numbers in int8 that are made floats at a time for one token: a megabyte, which a core's cache holds."""
UNFOLDED = 2**20
"""The same for several tokens."""
TRIAL_ROWS = 4
"""How many rows are made floats at a time where a trial wants all that may happen to happen."""

_running = threading.local()


@contextmanager
def ragged_step(segments: Sequence[Segment], *, many: int = MANY) -> Iterator[None]:
    """Within this block the model's attention runs over these segments; afterwards their states are longer."""
    _running.segments = segments
    singles = len(segments) >= many and all(segment.end - segment.start == 1 for segment in segments)
    _running.batch = Batch(segments) if singles and segments[0].state.pool.batches else None
    _running.always = many < MANY
    try:
        yield
        for segment in segments:
            segment.state.length += segment.end - segment.start
    finally:
        _running.segments, _running.batch = (), None


def filled_up(given: torch.Tensor, positions: list[int], singles: bool) -> torch.Tensor:
    """What goes into a ragged step, in as many rows as one program serves (`packed.rounded`); so many `positions`, too.

    The last token stands there again: attention gives it what it gave the first time (`_all_rows`), so that it goes
    the same way through the layers, to no expert that is not there already.

    Args:
        singles: each sequence has one token; such steps stay as they are, since there are few such counts.
    """
    count = len(positions)
    more = 0 if singles else packed.rounded(count) - count
    if not more:
        return given
    positions += positions[-1:] * more
    return torch.cat((given, given[-1:].expand(more, *given.shape[1:])))


def _all_rows(outputs: list[torch.Tensor], segments: Sequence[Segment], rows: int) -> torch.Tensor:
    """Outputs [tokens, heads, width] of the segments as [1, rows, heads, width]: the last one for what fills up."""
    if more := rows - segments[-1].end:
        outputs.append(outputs[-1][-1:].expand(more, -1, -1))
    return torch.cat(outputs)[None]


@contextmanager
def decoding_step(step: Decoding) -> Iterator[None]:
    """Within this block the model's attention runs over pages, for one token of each sequence."""
    _running.decoding = step
    try:
        yield
    finally:
        _running.decoding = None


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
    step: Decoding | None = getattr(_running, "decoding", None)
    if step is not None:
        return attend_decoding(query, key, value, layer, scaling, sliding_window, softcap, s_aux, step), None
    if being_recorded():
        attended: torch.Tensor = torch.ops.shardboard.attend(
            query, key, value, layer, scaling, sliding_window, softcap, s_aux
        )
        return attended, None
    return _attend_segments(query, key, value, layer, scaling, sliding_window, softcap, s_aux), None


def _attend_segments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """`ragged_attention` for the segments of the step under way; also an operator, for layers that were recorded."""
    segments: Sequence[Segment] = _running.segments
    if segments[0].state.pool.int8:
        return _attend_int8(query[0], key[0], value[0], layer, scaling, window, softcap, sinks, segments)
    if softcap is None and sinks is None and len(segments) == query.shape[2]:
        batch: Batch | None = _running.batch
        if batch is not None and (_running.always or batch.pays(key.shape[1] * key.shape[3])):
            for state in batch.fresh:
                state.hold(layer, key[0], value[0])
            if (rows := batch.pool.layer(layer)) is not None:
                return _attend_batch(query, key, value, rows, scaling, window, batch)
        if window is None:
            return _attend_singles(query, key, value, layer, scaling, segments)
    queries, new_keys, new_values = query[0], key[0], value[0]
    outputs = []
    for segment in segments:
        keys, values = segment.state.append(
            layer, new_keys[:, segment.start : segment.end], new_values[:, segment.start : segment.end]
        )
        outputs.append(_attend(queries[:, segment.start : segment.end], keys, values, scaling, window, softcap, sinks))
    return _all_rows(outputs, segments, query.shape[2])


def _attend_int8(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    segments: Sequence[Segment],
) -> torch.Tensor:
    """`_attend_segments` over rows that are kept in int8: query, key and value are [heads, tokens, width]."""
    outputs = []
    for segment in segments:
        own = slice(segment.start, segment.end)
        kept = segment.state.keep(layer, key[:, own], value[:, own])
        seen = kept[0].shape[2] if window is None else min(kept[0].shape[2], window + segment.end - segment.start - 1)
        kept = tuple(each[0, :, -seen:] for each in kept)
        if segment.end - segment.start == 1 and softcap is None and sinks is None:
            rows = TRIAL_ROWS if _running.always else max(1, AT_A_TIME // kept[0][:, 0].numel())
            outputs.append(attend_one(query[:, own], kept, scaling, rows))
        else:
            heads = 1 if _running.always else max(1, UNFOLDED // kept[0][0].numel())
            outputs.append(_attend_unfolded(query[:, own], kept, scaling, window, softcap, sinks, heads))
    return _all_rows(outputs, segments, query.shape[1])


def _attend_unfolded(
    query: torch.Tensor,
    kept: Kept,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    at_once: int,
) -> torch.Tensor:
    """`_attend` over rows in int8, [kv heads, all, width] with their scales, made floats `at_once` heads at a time."""
    keys, key_scales, values, value_scales = kept
    group = len(query) // len(keys)
    outputs = []
    for first in range(0, len(keys), at_once):
        heads, mine = slice(first, first + at_once), slice(first * group, (first + at_once) * group)
        own_keys = from_int8(keys[heads], key_scales[..., heads], query.dtype)[None]
        own_values = from_int8(values[heads], value_scales[..., heads], query.dtype)[None]
        own_sinks = None if sinks is None else sinks[mine]
        outputs.append(_attend(query[mine], own_keys, own_values, scaling, window, softcap, own_sinks))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def attend_one(query: torch.Tensor, kept: Kept, scaling: float | None, at_once: int) -> torch.Tensor:
    """One token over rows in int8: query [heads, 1, width] over [kv heads, all, width] -> [1, heads, width].

    The numbers of `at_once` rows at a time are made floats, which stay in the processor's cache; scales are multiplied
    with the scores and with the weights instead, of which there are fewer than of numbers.
    """
    keys, key_scales, values, value_scales = kept
    kv_heads, total, width = keys.shape
    grouped = query.reshape(kv_heads, -1, width).float() * (width**-0.5 if scaling is None else scaling)
    count = min(total, at_once)
    room = torch.empty(kv_heads * count * max(width, values.shape[-1]), dtype=torch.float32, device=query.device)

    def floats(rows: torch.Tensor, start: int) -> torch.Tensor:
        some = rows[:, start : start + count]
        return room[: some.numel()].view(some.shape).copy_(some)

    parts = [torch.bmm(grouped, floats(keys, start).transpose(1, 2)) for start in range(0, total, count)]
    scores = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    weights = torch.softmax(scores.mul_(key_scales.transpose(1, 2)[0, :, None]), dim=-1)
    weights.mul_(value_scales.transpose(1, 2)[0, :, None])
    output = torch.bmm(weights[..., :count], floats(values, 0))
    for start in range(count, total, count):
        output.baddbmm_(weights[..., start : start + count], floats(values, start))
    return output.to(query.dtype).reshape(1, len(query), -1)


def _attend_batch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: Pair,
    scaling: float | None,
    window: int | None,
    batch: Batch,
) -> torch.Tensor:
    """One token of each sequence, all in one call."""
    _, heads, tokens, width = query.shape
    kv_heads = key.shape[1]
    for into, new in zip(rows, (key, value), strict=True):
        into[batch.slots, :, batch.last] = new[0].transpose(0, 1)
    grouped = query[0].transpose(0, 1).reshape(tokens, kv_heads, heads // kv_heads, width)
    if not batch.in_order:
        spread = grouped.new_zeros(batch.span, *grouped.shape[1:])
        spread[batch.places] = grouped
        grouped = spread
    low = batch.low(window)
    keys, values = (each.narrow(0, batch.first, batch.span).narrow(2, low, batch.top - low) for each in rows)
    output = scaled_dot_product_attention(
        grouped, keys, values, attn_mask=batch.mask(window, query.dtype), scale=scaling
    )
    if not batch.in_order:
        output = output[batch.places]
    return output.reshape(1, tokens, heads, value.shape[-1])


def _attend_singles(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scaling: float | None,
    segments: Sequence[Segment],
) -> torch.Tensor:
    """One token of each sequence, which is what decoding is: as few calls per sequence as can be.

    A single token looks at everything, so there is no mask, and the query heads that share a key head are
    rows of one matrix.
    """
    _, heads, tokens, width = query.shape
    kv_heads = key.shape[1]
    if tokens == 1:  # a single stream: each call less is time
        keys, values = segments[0].state.append_one(layer, key, value)
        grouped = query.reshape(1, kv_heads, heads // kv_heads, width)
        output = scaled_dot_product_attention(grouped, keys, values, scale=scaling)
        return output.reshape(1, 1, heads, value.shape[-1])
    queries = query[0].transpose(0, 1).reshape(tokens, kv_heads, heads // kv_heads, width).split(1)
    outputs = []
    for at, (segment, grouped) in enumerate(zip(segments, queries, strict=True)):
        rows = segment.state.append_one(layer, key.narrow(2, at, 1), value.narrow(2, at, 1))
        outputs.append(scaled_dot_product_attention(grouped, *rows, scale=scaling))
    return torch.cat(outputs).reshape(1, tokens, heads, value.shape[-1])


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
    """Query [heads, new, width] over keys and values [kv heads, tokens, width]: [new, heads, value width]."""
    heads, new, _ = query.shape
    repeat = heads // keys.shape[0]
    keys, values = keys.repeat_interleave(repeat, 0), values.repeat_interleave(repeat, 0)
    seen = visible(new, keys.shape[1], window, query.device)
    own = None if sinks is None else sinks.reshape(-1, 1, 1)
    return attend_plainly(query, keys, values, seen, scaling, softcap, own).transpose(0, 1)


AttentionInterface.register(RAGGED, ragged_attention)

_library = torch.library.Library("shardboard", "DEF")
_library.define(
    "attend(Tensor query, Tensor key, Tensor value, int layer, float? scaling, int? window, float? softcap, "
    "Tensor? sinks) -> Tensor"
)
_library.impl("attend", _attend_segments, "CompositeExplicitAutograd")
