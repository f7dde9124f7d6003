"""Modules that treat each token by itself: a matrix, a norm, a mixture of experts, a whole MLP.

What such a module gives for a token depends on what it is given for that token alone, so the tokens of many sequences
may go through it as one, whatever stands around it. Found by watching, never by a module's name: in what a module is
given, and in what it returns, every tensor must have the tokens in one dimension (it is as long as the text, for two
texts of unlike lengths), and for both texts at once it must give what it gives for each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from worker_agent.model.linears.fused import Sibling
from worker_agent.model.proof import difference
from worker_agent.model.slicing import FAULTS

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Slot = int | str
"""An argument: its place, or its name."""
Run = tuple[int, Callable[[], object]]
"""A text's number of tokens, and what passes it through a model."""
Form = tuple[tuple[Slot, Any], ...]
"""How a call looks: for each argument that is a tensor how many dimensions it has, else its value."""


@dataclass(frozen=True, slots=True)
class _Rank:
    """Stands for a tensor in a form."""

    dimensions: int


_PLAIN = (bool, int, float, str, type(None))


def form_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Form | None:
    """How a call looks; None if there is more in it than tensors and plain values."""
    form: list[tuple[Slot, Any]] = []
    named: list[tuple[Slot, Any]] = sorted(kwargs.items())
    for slot, value in [*enumerate(args), *named]:
        if isinstance(value, torch.Tensor):
            form.append((slot, _Rank(value.dim())))
        elif isinstance(value, _PLAIN):
            form.append((slot, value))
        else:
            return None
    return tuple(form)


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Where the tokens stand."""

    given: dict[Slot, int]
    """For each argument that is a tensor, in which dimension."""
    returned: int | tuple[int | None, ...]
    """In which dimension of the tensor that is returned, or of each in a tuple; None for one that is no tensor."""


@dataclass(frozen=True, slots=True)
class RowWise:
    """A module that treats each token by itself."""

    module: nn.Module
    forms: dict[Form, Dimensions] = field(default_factory=dict)
    """The ways in which it was called."""


def joined(calls: Sequence[Arguments], dimensions: Dimensions) -> Arguments:
    """Calls of one form as one: the tokens of all of them, end to end."""
    args, kwargs = list(calls[0][0]), dict(calls[0][1])
    for slot, dimension in dimensions.given.items():
        whole = torch.cat([call[0][slot] if isinstance(slot, int) else call[1][slot] for call in calls], dimension)
        if isinstance(slot, int):
            args[slot] = whole
        else:
            kwargs[slot] = whole
    return tuple(args), kwargs


def counts(calls: Sequence[Arguments], dimensions: Dimensions) -> list[int]:
    """How many tokens each call has."""
    slot, dimension = next(iter(dimensions.given.items()))
    return [(call[0][slot] if isinstance(slot, int) else call[1][slot]).shape[dimension] for call in calls]


def parted(output: Any, dimensions: Dimensions, sizes: Sequence[int]) -> list[Any]:
    """What a joint call returned, as each of the calls would have returned it."""
    if isinstance(dimensions.returned, int):
        return _split(output, dimensions.returned, sizes)
    columns = [
        [each] * len(sizes) if dimension is None else _split(each, dimension, sizes)
        for each, dimension in zip(output, dimensions.returned, strict=True)
    ]
    return list(zip(*columns, strict=True))


def _split(whole: torch.Tensor, dimension: int, sizes: Sequence[int]) -> list[torch.Tensor]:
    parts = list(whole.split(list(sizes), dimension))
    # Whoever takes a tensor apart further may count on its numbers lying one after another.
    return [part.contiguous() for part in parts] if whole.is_contiguous() and dimension else parts


Calls = dict[nn.Module, list[tuple[Arguments, Any]]]


def find(roots: Sequence[nn.Module], runs: Sequence[Run], dtype: torch.dtype) -> list[RowWise]:
    """The largest modules with weights, `roots` or below them, that treat each token by itself.

    Args:
        runs: of two texts.
        dtype: in which they compute.

    Returns:
        In the order in which they ran.
    """
    lengths, calls = [length for length, _ in runs], [_watched(roots, run) for _, run in runs]
    found: dict[nn.Module, RowWise] = {}
    for root in roots:
        for each in _picked(root, lengths, calls, dtype):
            found.setdefault(each.module, each)
    inside = {part for module in found for part in module.modules() if part is not module}
    return [found[module] for module in calls[0] if module in found and module not in inside]


def has_weights(module: nn.Module) -> bool:
    """Whether a module multiplies with anything of its own, in whatever layout it has that."""
    # In some layouts a matrix is no parameter any more, or another module's.
    return any(True for _ in module.parameters()) or any(
        isinstance(each, Sibling) or hasattr(each, "in_features") for each in module.modules()
    )


def _picked(module: nn.Module, lengths: list[int], calls: list[Calls], dtype: torch.dtype) -> Iterator[RowWise]:
    if not has_weights(module):
        return
    if (found := _row_wise(module, lengths, calls, dtype)) is not None:
        yield found
        return
    for child in module.children():
        yield from _picked(child, lengths, calls, dtype)


def _watched(roots: Sequence[nn.Module], run: Callable[[], object]) -> Calls:
    """Run something; what each module was given and returned, in the order in which they began."""
    calls: Calls = {}
    given: dict[nn.Module, list[Arguments]] = defaultdict(list)

    def begins(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.setdefault(module, [])
        given[module].append((_kept(args), {name: _kept(each) for name, each in kwargs.items()}))

    def ends(module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        calls[module].append((given[module].pop(), _kept(output)))

    watched = {module for root in roots for module in root.modules()}
    handles = [module.register_forward_pre_hook(begins, with_kwargs=True) for module in watched]
    handles += [module.register_forward_hook(ends, with_kwargs=True) for module in watched]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _kept(value: Any) -> Any:
    """As it is now: what runs later may change a tensor where it lies."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    return tuple(map(_kept, value)) if type(value) in (tuple, list) else value


def _row_wise(module: nn.Module, lengths: list[int], calls: list[Calls], dtype: torch.dtype) -> RowWise | None:
    first, second = (each.get(module, []) for each in calls)
    if not first or len(first) != len(second) or any(map(_is_watched, list(module.modules())[1:])):
        return None
    found = RowWise(module)
    for pair in zip(first, second, strict=True):
        form = form_of(*pair[0][0])
        if form is None or form != form_of(*pair[1][0]):
            return None
        dimensions = _dimensions(pair, form, lengths)
        if dimensions is None or found.forms.setdefault(form, dimensions) != dimensions:
            return None
        if not _same_together(module, pair, dimensions, dtype):
            return None
    return found


def _dimensions(pair: Sequence[tuple[Arguments, Any]], form: Form, lengths: list[int]) -> Dimensions | None:
    """Where the tokens stand in two texts' calls; None if they do not everywhere."""
    given: dict[Slot, int] = {}
    for slot, looks in form:
        if isinstance(looks, _Rank):
            one, other = ((args[slot] if isinstance(slot, int) else kwargs[slot]) for (args, kwargs), _ in pair)
            if (dimension := _long_as(one, other, lengths)) is None:
                return None
            given[slot] = dimension
    one, other = (output for _, output in pair)
    if not given:
        return None
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        whole = _long_as(one, other, lengths)
        return None if whole is None else Dimensions(given, whole)
    if not isinstance(one, tuple) or not isinstance(other, tuple) or len(one) != len(other):
        return None
    returned: list[int | None] = []
    for left, right in zip(one, other, strict=True):
        if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
            if (dimension := _long_as(left, right, lengths)) is None:
                return None
            returned.append(dimension)
        elif isinstance(left, _PLAIN) and left == right:
            returned.append(None)
        else:
            return None
    return Dimensions(given, tuple(returned))


def _long_as(one: torch.Tensor, other: torch.Tensor, lengths: list[int]) -> int | None:
    """The one dimension in which two tensors are as long as their texts, and unlike; None if there is none."""
    if one.dim() != other.dim():
        return None
    unlike = [index for index, (left, right) in enumerate(zip(one.shape, other.shape, strict=True)) if left != right]
    if len(unlike) != 1 or [one.shape[unlike[0]], other.shape[unlike[0]]] != lengths:
        return None
    return unlike[0]


def _is_watched(module: nn.Module) -> bool:
    """Whether something of a single pass hangs in a module, such as which tokens need logits."""
    return bool(module._forward_pre_hooks or module._forward_hooks)


@torch.inference_mode()
def _same_together(
    module: nn.Module, pair: Sequence[tuple[Arguments, Any]], dimensions: Dimensions, dtype: torch.dtype
) -> bool:
    """Whether it gives for both texts at once what it gives for each."""
    calls = [arguments for arguments, _ in pair]
    args, kwargs = joined(calls, dimensions)
    try:
        found = parted(module.forward(*args, **kwargs), dimensions, counts(calls, dimensions))
    except FAULTS:
        return False
    return all(
        _alike(wanted, got, dimension, dtype)
        for (_, output), each in zip(pair, found, strict=True)
        for wanted, got, dimension in _tensors(output, each, dimensions.returned)
    )


def _tensors(
    output: Any, found: Any, returned: int | tuple[int | None, ...]
) -> Collection[tuple[torch.Tensor, torch.Tensor, int]]:
    if isinstance(returned, int):
        return [(output, found, returned)]
    columns = zip(output, found, returned, strict=True)
    return [(wanted, got, dimension) for wanted, got, dimension in columns if dimension is not None]


def _alike(wanted: torch.Tensor, found: torch.Tensor, dimension: int, dtype: torch.dtype) -> bool:
    if not wanted.is_floating_point():
        return torch.equal(wanted, found)
    # A router keeps float32 whatever the model computes in; it is given what was rounded to that all the same.
    rows = [each.movedim(dimension, 0).flatten(1) for each in (wanted, found)]
    return not difference(rows[0], rows[1], dtype)
