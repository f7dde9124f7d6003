"""Where each tensor of a watched run comes from: which layer made it, and whether token ids went into it.

Every operation is seen (`TorchDispatchMode`), so a tensor that reaches a layer by any way (an argument, a cache, an
attribute of a module, something computed from it in between) is known by what it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Mark = tuple[str, int]
"""("layer", i): made in layer i; ("after", i): from the hidden states that layer i gave; IDS; HIDDEN."""
IDS: Mark = ("ids", 0)
"""Made from the token ids before the first layer, embeddings included."""
HIDDEN: Mark = ("hidden", 0)
"""Made from the hidden states that the running layer was given."""

_MARKS = "_shardboard_marks"


def marks_of(tensor: torch.Tensor) -> frozenset[Mark]:
    """What a tensor was made from, as far as it was made in a watched run."""
    found: frozenset[Mark] = getattr(tensor, _MARKS, frozenset())
    return found


def mark(tensor: torch.Tensor, marks: Iterable[Mark]) -> None:
    """Say what a tensor was made from."""
    setattr(tensor, _MARKS, frozenset(marks))


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


class Provenance(TorchDispatchMode):
    """Passes marks from the inputs of each operation to its outputs, and notes what reached a layer from elsewhere."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without types
        self.layer: int | None = None
        """The layer that runs now."""
        self.ended: int | None = None
        """The last layer, once it has run: what works after it is counted to it."""
        self.flows: set[tuple[int, int]] = set()
        """(i, j): layer j computed with something that layer i made, other than the hidden states it was given."""
        self.token_readers: set[int] = set()
        """Layers that computed with something made from the token ids, other than the hidden states."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2]
        if name.endswith("_like") or name.startswith("new_"):
            marks: frozenset[Mark] = frozenset()  # of the input's shape and type alone
        else:
            marks = frozenset().union(*map(marks_of, tensors_in((args, kwargs))))
        if self.layer is not None:
            self._reached(self.layer, marks)
            marks |= {("layer", self.layer)}
        elif self.ended is not None:
            self._reached(self.ended, marks)
        if marks:
            for tensor in tensors_in(output):
                mark(tensor, marks)
        return output

    def _reached(self, layer: int, marks: frozenset[Mark]) -> None:
        for kind, index in marks:
            if kind == "ids":
                self.token_readers.add(layer)
            elif kind in ("layer", "after") and index != layer:
                self.flows.add((index, layer))

    @contextmanager
    def inside(self, layer: int, hidden: torch.Tensor) -> Iterator[None]:
        """What runs in this block is layer number `layer`, and `hidden` are the hidden states it was given."""
        before = marks_of(hidden)
        mark(hidden, {HIDDEN})
        self.layer = layer
        try:
            yield
        finally:
            self.layer = None
            mark(hidden, before)
