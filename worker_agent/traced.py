"""Decoder layers recorded once as TorchScript, so that a decode step does not pay for Python in every layer.

Recording a layer is safe only if nothing in it depends on the numbers: a layer whose recording makes torch
warn of that (a router that looks at its scores, for one), or cannot be made at all, stays as it is. The stage
checks the recorded layers against the others on two sets of numbers and several lengths (`stage.py`).
Switched off by `SHARDBOARD_TRACED=0`; benchmarks/decode.py has the figures.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from worker_agent.slicing import Slice

log = logging.getLogger(__name__)


def is_wanted() -> bool:
    """Whether tracing is switched on."""
    return os.environ.get("SHARDBOARD_TRACED") != "0"


class TracedLayer(nn.Module):
    """A decoder layer that records itself at its first call and runs the recording from then on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.recording: Callable[..., torch.Tensor] | None = None
        self.refused = ""
        """Why there is no recording; empty while there may be."""
        self._tensors = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = _tensors((args, kwargs), [])
        if self.recording is None and not self.refused:
            self._record(args, kwargs, given)
        if self.recording is None or len(given) != self._tensors:
            return self.layer(*args, **kwargs)
        return self.recording(*given)

    def _record(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[torch.Tensor]) -> None:
        call = _Call(self.layer, args, kwargs).eval()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                recording = torch.jit.trace(call, tuple(given), check_trace=False, strict=False)
            except Exception as error:  # whatever stands in the way of recording, the layer runs without
                self.refused = f"{type(error).__name__}: {error}"
                return
        doubts = [str(each.message) for each in caught if each.category.__name__ == "TracerWarning"]
        if doubts:
            self.refused = doubts[0]
            return
        self.recording, self._tensors = recording, len(given)


class _Call(nn.Module):
    """A layer with all its arguments but the tensors, which are given in the order in which they were found."""

    def __init__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.layer = layer
        self._args, self._kwargs = args, kwargs

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        args, kwargs = _put_back((self._args, self._kwargs), iter(given))
        output: torch.Tensor = self.layer(*args, **kwargs)
        return output


def trace_layers(cut: Slice, run: Callable[[], object]) -> list[TracedLayer]:
    """Replace the slice's own layers by recordings made while `run` runs the model; those that could be recorded."""
    for index in range(cut.start, cut.end):
        cut.layers[index] = TracedLayer(cut.layers[index])
    cut.connect()
    run()
    recorded = []
    for index in range(cut.start, cut.end):
        layer = cut.layers[index]
        assert isinstance(layer, TracedLayer)
        if layer.recording is None:
            log.debug("layer %d runs untraced: %s", index, layer.refused)
            cut.layers[index] = layer.layer
        else:
            recorded.append(layer)
    cut.connect()
    return recorded


def untrace(cut: Slice) -> None:
    """Put the layers themselves back."""
    for index in range(cut.start, cut.end):
        layer = cut.layers[index]
        if isinstance(layer, TracedLayer):
            cut.layers[index] = layer.layer
    cut.connect()


def _tensors(value: Any, found: list[torch.Tensor]) -> list[torch.Tensor]:
    """Adds every tensor in a structure of tuples, lists and dicts to `found`, in a fixed order."""
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _tensors(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            _tensors(item, found)
    return found


def _put_back(value: Any, given: Iterator[torch.Tensor]) -> Any:
    """The same structure with other tensors, taken in the same order."""
    if isinstance(value, torch.Tensor):
        return next(given)
    if isinstance(value, tuple | list):
        return type(value)(_put_back(item, given) for item in value)
    if isinstance(value, dict):
        return {name: _put_back(item, given) for name, item in value.items()}
    return value
