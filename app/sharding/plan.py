"""Where to cut a model: layers divided by bytes, or as the user says. Pure: figures in, ranges out.

The division is the classic linear partition: contiguous ranges whose largest is as small as possible,
found by dynamic programming over boundaries (Skiena, The Algorithm Design Manual, section on partitioning).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from app.errors import BadInput
from app.models.description import ModelDescription, PartSource
from app.serving import Serving

Range = tuple[int, int]
"""A shard's layers [start, end)."""


def range_text(layers: Range) -> str:
    """A range as users write it: inclusive."""
    start, end = layers
    return f"{start}-{end - 1}" if end - start > 1 else f"{start}"


def ranges_text(ranges: Sequence[Range]) -> str:
    """Ranges as `--layers` takes them."""
    return ",".join(map(range_text, ranges))


def divide(description: ModelDescription, shards: int) -> tuple[Range, ...]:
    """Divide the layers over `shards` so that the largest shard has as few bytes as possible.

    The embedding counts for the first shard, norm and head for the last, a tied embedding for both.

    Raises:
        BadInput: fewer than one shard, or more than the model can be cut into.
    """
    if shards < 1:
        raise BadInput(f"A model cannot be cut into {shards} shards.", "Give a number from 1 on.")
    most = len(description.cuts) + 1
    if shards > most:
        raise BadInput(
            f"'{description.name}' has {description.num_layers} layers and can be cut into {most} shards at most, "
            f"not {shards}." + _notes(description),
            f"Give at most {most} shards.",
        )
    size = stage_bytes(description)
    ranges = partition(description.num_layers, description.cuts, [lambda start, end: float(size(start, end))] * shards)
    assert ranges is not None  # there are as many cuts as it takes, and every cost is finite
    return ranges


def stage_bytes(description: ModelDescription) -> Callable[[int, int], int]:
    """A function (start, end) -> stored bytes of the shard [start, end), ends included."""
    return _stage_sum(description, [part.nbytes for part in description.layers], lambda part: part.nbytes)


def stage_memory(description: ModelDescription, serving: Serving) -> Callable[[int, int], int]:
    """A function (start, end) -> bytes of memory that the weights of [start, end) take once loaded."""

    def measure(part: PartSource) -> int:
        return part.memory(serving.dtype, serving.quantize)

    return _stage_sum(description, [measure(part) for part in description.layers], measure)


def _stage_sum(
    description: ModelDescription, layers: Sequence[int], measure: Callable[..., int]
) -> Callable[[int, int], int]:
    sums = [0]
    for value in layers:
        sums.append(sums[-1] + value)
    ends = {kind: measure(part) for kind in ("first", "tied", "last", "common") if (part := description.end(kind))}
    last_layer = description.num_layers

    def total(start: int, end: int) -> int:
        value = sums[end] - sums[start] + ends.get("common", 0)
        if start == 0:
            value += ends.get("first", 0)
        if end == last_layer:
            value += ends.get("last", 0)
        if start == 0 or end == last_layer:
            value += ends.get("tied", 0)
        return value

    return total


def partition(
    layers: int, cuts: Sequence[int], costs: Sequence[Callable[[int, int], float]]
) -> tuple[Range, ...] | None:
    """Cut [0, layers) into len(costs) ranges at allowed boundaries, the largest cost as small as possible.

    Among equally good ways it takes the most even one (least sum of squares).

    Args:
        layers: number of layers.
        cuts: allowed inner boundaries, ascending.
        costs: for each range in order, what [start, end) costs, no less than any range within it; infinite where it
            must not be.

    Returns:
        The ranges, or None when every way costs infinity or there are too few boundaries.
    """
    boundaries = (0, *cuts, layers)
    largest = _best(boundaries, costs, lambda so_far, cost: max(so_far, cost))
    if largest is None:
        return None
    limit = largest[0]

    def even(so_far: float, cost: float) -> float:
        return so_far + cost * cost if cost <= limit else float("inf")

    best = _best(boundaries, costs, even)
    chosen = best if best is not None else largest
    return tuple(pairwise(boundaries[index] for index in chosen[1]))


def _best(
    boundaries: Sequence[int],
    costs: Sequence[Callable[[int, int], float]],
    combine: Callable[[float, float], float],
) -> tuple[float, tuple[int, ...]] | None:
    """The value of the best partition and the indices of its boundaries, ends included."""
    infinite = float("inf")
    count = len(boundaries)
    values = [0.0] + [infinite] * (count - 1)
    came_from: list[list[int]] = []
    for cost in costs:
        following = [infinite] * count
        origins = [-1] * count
        for end in range(1, count):
            for start in range(end - 1, -1, -1):
                if values[start] == infinite:
                    continue
                own = cost(boundaries[start], boundaries[end])
                value = combine(values[start], own) if own < infinite else infinite
                if value == infinite:  # and so is that of any larger range
                    break
                if value <= following[end]:
                    following[end], origins[end] = value, start
        came_from.append(origins)
        values = following
    if values[-1] == infinite:
        return None
    chosen = [count - 1]
    for origins in reversed(came_from):
        chosen.append(origins[chosen[-1]])
    return values[-1], tuple(reversed(chosen))


def parse_layers(text: str, description: ModelDescription) -> tuple[Range, ...]:
    """Read `--layers 0-9,10-20`: inclusive ranges that together are all layers, in order.

    Raises:
        BadInput: it cannot be read, leaves layers out, names them twice, or cuts where it is not allowed.
    """
    ranges: list[Range] = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", piece)
        if match is None:
            raise BadInput(f"'{piece.strip()}' is no range of layers.", "Write ranges like 0-9,10-20.")
        start = int(match[1])
        ranges.append((start, int(match[2] or start) + 1))
    check_ranges(ranges, description)
    return tuple(ranges)


def check_ranges(ranges: Sequence[Range], description: ModelDescription) -> None:
    """Raise BadInput unless the ranges are all layers, in order, cut where it is allowed."""
    layers = description.num_layers
    whole = f"'{description.name}' has the layers 0-{layers - 1}."
    if not ranges:
        raise BadInput("No range of layers is given.", whole)
    expected = 0
    for start, end in ranges:
        if end <= start:
            raise BadInput(f"The range {start}-{end - 1} ends before it begins.", "Write ranges like 0-9,10-20.")
        if end > layers:
            raise BadInput(f"The range {range_text((start, end))} goes past the last layer.", whole)
        if start > expected:
            raise BadInput(f"No range holds {_layers(expected, start)}.", whole)
        if start < expected:
            raise BadInput(
                f"The range {range_text((start, end))} overlaps or precedes the one before it, which ends at layer "
                f"{expected - 1}.",
                "Give the ranges in order, each layer once.",
            )
        if start and start not in description.cuts:
            raise BadInput(
                f"'{description.name}' cannot be cut between layers {start - 1} and {start}." + _notes(description)
            )
        expected = end
    if expected < layers:
        raise BadInput(f"No range holds {_layers(expected, layers)}.", whole)


def _layers(start: int, end: int) -> str:
    return f"the layers {start}-{end - 1}" if end - start > 1 else f"layer {start}"


def _notes(description: ModelDescription) -> str:
    return "".join(f" ({note})" for note in description.cut_notes)
