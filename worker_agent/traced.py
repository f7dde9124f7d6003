"""A stage's whole pass recorded once as TorchScript, so that a decode step does not pay for Python in every layer.

Recording is safe only if nothing in the pass depends on the numbers: where torch warns of that while it
records (a router that looks at its scores, for one), or cannot record at all, the stage runs as it is. The
stage checks the recording against the model on two sets of numbers and several lengths (`stage.py`).
Switched off by `SHARDBOARD_TRACED=0`; benchmarks/decode.py has the figures.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable

import torch
from torch import nn

from worker_agent.kv_cache import RaggedCache
from worker_agent.slicing import Slice

log = logging.getLogger(__name__)


def is_wanted() -> bool:
    """Whether recording is switched on."""
    return os.environ.get("SHARDBOARD_TRACED") != "0"


class _Pass(nn.Module):
    """`Slice.run` of a ragged step, as a module of tensors alone."""

    def __init__(self, cut: Slice) -> None:
        super().__init__()
        self.model = cut.model  # so that the weights are known as the module's own, not as constants
        self._cut = cut

    def forward(self, given: torch.Tensor, positions: torch.Tensor, sampled_rows: torch.Tensor) -> torch.Tensor:
        return self._cut.run(given, positions, sampled_rows, RaggedCache())


def record(
    cut: Slice, given: torch.Tensor, positions: torch.Tensor, sampled_rows: torch.Tensor
) -> Callable[..., torch.Tensor] | None:
    """Record a pass over an example, within a `ragged_step`; None where that cannot be done safely.

    Args:
        given, positions, sampled_rows: as `Slice.run` takes them; the recording takes any other lengths too.
    """
    for module in cut.model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # matters to gradients alone, and checking it looks like a doubt
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            recording: Callable[..., torch.Tensor] = torch.jit.trace(
                _Pass(cut).eval(), (given, positions, sampled_rows), check_trace=False, strict=False
            )
        except Exception as error:  # whatever stands in the way of recording, the stage runs without
            log.debug("the stage cannot be recorded: %s", error)
            return None
    doubts = [
        f"{each.filename}:{each.lineno}: {each.message}" for each in caught if each.category.__name__ == "TracerWarning"
    ]
    if doubts:
        log.debug("the stage is not recorded: %s", doubts[0])
        return None
    return recording
