"""Rotary embeddings that depend on how long a sequence is (dynamic, longrope, …), for steps of many sequences.

Such an embedding looks at the largest position that it is given and chooses its frequencies by it; some remember the
largest one of all. That is right for one prompt in one piece, and wrong for everything else: beside a long sequence a
short one would get the long one's frequencies, and the first piece of a long prompt those of a short prompt. Here each
sequence of a step gets its own call, with its whole length named and the module as it was when it was loaded.

Which modules these are is observed: one whose rows change when a far position stands beside them.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

Span = tuple[int, int, int]
"""The tokens `[start, end)` of a step belong to a sequence that is this long, or is known to become."""

_spans: ContextVar[Sequence[Span]] = ContextVar("spans", default=())
"""Of the pass under way; passes that are under way side by side have each a context of its own."""
_trial = threading.local()


@contextmanager
def sequence_lengths(spans: Sequence[Span]) -> Iterator[None]:
    """Within this block a pass holds these sequences, end to end."""
    before = _spans.set(spans)
    try:
        yield
    finally:
        _spans.reset(before)


@contextmanager
def one_length(length: int) -> Iterator[None]:
    """Within this block every sequence counts as this long, whatever a pass holds."""
    _trial.pinned = length
    try:
        yield
    finally:
        _trial.pinned = None


class LengthAware:
    """Stands for the `forward` of a rotary embedding; calls it once for each sequence."""

    def __init__(self, module: nn.Module) -> None:
        self._forward = module.forward
        self._module = module
        self._buffers = {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
        self._plain = {name: value for name, value in vars(module).items() if isinstance(value, (int, float))}

    def __call__(self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        spans = _spans.get()
        pinned: int | None = getattr(_trial, "pinned", None)
        if pinned is not None:
            spans = [(0, position_ids.shape[1], pinned)]
        if not spans:
            return self._forward(x, position_ids, *args, **kwargs)
        found = []
        for start, end, length in spans:
            self._renew()
            last = position_ids.new_full((1, 1), length - 1)
            places = torch.cat([position_ids[:, start:end], last], dim=1)
            found.append(self._forward(x, places, *args, **kwargs))
        self._renew()
        if isinstance(found[0], tuple):
            return tuple(
                torch.cat([one.narrow(1, 0, one.shape[1] - 1) for one in column], 1)
                for column in zip(*found, strict=True)
            )
        return torch.cat([one.narrow(1, 0, one.shape[1] - 1) for one in found], 1)

    def _renew(self) -> None:
        """As it was loaded: what an earlier call has remembered says nothing about this sequence."""
        for name, value in self._plain.items():
            setattr(self._module, name, value)
        for name, buffer in self._buffers.items():
            self._module._buffers[name] = buffer.clone()


def make_length_aware(module: nn.Module, far: int) -> int:
    """Wrap the rotary embeddings below `module` (itself included) that depend on a sequence's length; how many.

    Args:
        far: a position that is far for this model: its longest context, less one.
    """
    count = 0
    for each in module.modules():
        if _takes_positions(each) and _depends_on_length(each, far):
            each.forward = LengthAware(each)
            count += 1
    return count


def is_length_aware(module: nn.Module) -> bool:
    """Whether one of the modules below was wrapped."""
    return any(isinstance(vars(each).get("forward"), LengthAware) for each in module.modules())


def release(module: nn.Module) -> None:
    """Undo it: a module that calls itself is never freed by itself."""
    for each in module.modules():
        if isinstance(vars(each).get("forward"), LengthAware):
            del each.forward


def _takes_positions(module: nn.Module) -> bool:
    if (
        isinstance(module, PreTrainedModel)
        or any(True for _ in module.parameters())
        or any(True for _ in module.children())
    ):
        return False
    if not any(True for _ in module.buffers(recurse=False)):
        return False
    return "position_ids" in inspect.signature(module.forward).parameters


@torch.inference_mode()
def _depends_on_length(module: nn.Module, far: int) -> bool:
    names: list[str | None] = [*_layer_types(module)] or [None]
    plain = {name: value for name, value in vars(module).items() if isinstance(value, (int, float))}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
    device = next(module.buffers(recurse=False)).device
    near = torch.arange(3, device=device)[None]
    beside = torch.cat([near, near.new_full((1, 1), max(4, far))], dim=1)
    x = torch.zeros(1, 4, 1, device=device)
    try:
        for name in names:
            more = {} if name is None else {"layer_type": name}
            alone, company = module(x, near, **more), module(x, beside, **more)
            pairs = zip(alone, company, strict=True) if isinstance(alone, tuple) else [(alone, company)]
            if any(not torch.equal(one, other[:, : one.shape[1]]) for one, other in pairs):
                return True
    # one that cannot be called like this is none of these; the trial of each layer has the last word
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):
        return False
    finally:
        for attribute, value in plain.items():
            setattr(module, attribute, value)
        for attribute, buffer in buffers.items():
            module._buffers[attribute] = buffer
    return False


def _layer_types(module: nn.Module) -> list[str]:
    """The kinds of layer for which a rotary embedding has frequencies of their own."""
    kinds = getattr(module, "rope_type", None)
    return list(kinds) if isinstance(kinds, dict) else []
