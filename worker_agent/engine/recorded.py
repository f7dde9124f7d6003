"""A stage's whole pass recorded once as TorchScript, so that a decode step does not pay for Python in every layer.

Recording is safe only if nothing in the pass depends on the numbers: where torch warns of that while it
records (a router that looks at its scores, for one), or cannot record at all, the stage runs as it is. The
stage checks the recording against the model on two sets of numbers and several lengths (`loading.py`).
Switched off by `SHARDBOARD_TRACED=0`; benchmarks/decode.py has the figures.

torch calls TorchScript deprecated. Its successors were measured and do not measure up yet (benchmarks/recording.py,
figures in benchmarks/results): a graph of `make_fx` or `torch.export` is run by Python, a line for each operator, and
gives away 40 to 100 % of what a recording gains for a single stream; with it, loading a model of many small layers
takes 1.7 and 2.7 times as long. A compiled graph takes 4.4 times as long even from a cache on disk, holds a tenth more
memory, and needs a C++ compiler on the node. Where torch has no TorchScript any more, stages run the model as it is,
and say so.

TorchScript's optimizer is left out: a recording's first two calls take twenty times as long as a step with it, and the
steps behind them are no faster (20 layers: 4.3 ms with and without, the two calls 145 ms, 14 without).

What `torch.jit.trace` makes of a module stays in torch's own registry for as long as the process lives: 1.8 MB for
each layer, each time a stage is loaded. So the graph is recorded by itself here, with the weights as its inputs, and
goes when the stage goes.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from worker_agent.engine.memory.rows import RaggedCache
from worker_agent.model.slicing import Slice

NEEDED = ("_create_graph_by_tracing", "_create_function_from_graph")
"""What of TorchScript a recording is made with: its inner parts, which no release of torch promises to keep."""


def why_not() -> str:
    """Why nothing is recorded on this machine; empty where it is."""
    if os.environ.get("SHARDBOARD_TRACED") == "0":
        return "switched off where this agent runs (SHARDBOARD_TRACED=0)"
    if not all(hasattr(torch._C, name) for name in NEEDED):
        return f"torch {torch.__version__} has no TorchScript any more"
    return ""


class Recording:
    """A recorded pass: `Slice.run` of a ragged step, as a graph of tensors alone."""

    def __init__(self, graph: torch._C.Graph, weights: list[torch.Tensor]) -> None:
        self._function = torch._C._create_function_from_graph("stage", graph)
        self._weights = weights

    def __call__(self, given: torch.Tensor, positions: torch.Tensor, sampled_rows: torch.Tensor) -> torch.Tensor:
        """As `Slice.run`, without its cache: the attention of a ragged step keeps keys and values by itself."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # a switch of each thread's own
            output: torch.Tensor = self._function(given, positions, sampled_rows, *self._weights)
        return output


def record(cut: Slice, given: torch.Tensor, positions: torch.Tensor, sampled_rows: torch.Tensor) -> Recording | str:
    """Record a pass over an example, within a `ragged_step`; where that cannot be done safely, why not.

    Args:
        given, positions, sampled_rows: as `Slice.run` takes them; the recording takes any other lengths too.
    """
    for module in cut.model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # matters to gradients alone, and checking it looks like a doubt
    # Each tensor once: a tied one stands under two names.
    weights: list[torch.Tensor] = list({id(tensor): tensor for tensor in cut.model.parameters()}.values())

    def run(given: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor, *_weights: torch.Tensor) -> torch.Tensor:
        return cut.run(given, positions, rows, RaggedCache())

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            graph, _ = torch._C._create_graph_by_tracing(
                run, [given, positions, sampled_rows, *weights], lambda _: "", False, False
            )
            recording = Recording(graph, weights)
        except Exception as error:  # whatever stands in the way of recording, the stage runs without
            lines = str(error).strip().splitlines()
            return f"it cannot be recorded ({type(error).__name__}: {lines[0][:200] if lines else ''})"
    doubts = [
        f"{Path(each.filename).name}:{each.lineno}: {str(each.message).splitlines()[0][:120]}"
        for each in caught
        if each.category.__name__ == "TracerWarning"
    ]
    return f"its pass depends on the numbers ({doubts[0]})" if doubts else recording
