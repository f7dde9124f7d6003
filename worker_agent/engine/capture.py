"""Having a GPU run a whole pass again without being told each operation of it.

Most of what a small step takes on a GPU is telling it what to do, operation by operation. A CUDA graph is told once and
run again by one call, over the same addresses. Only here is anything that a GPU alone can show: what is captured, and
over which tensors, is `static.py`'s, which runs on every device. Switched off by `SHARDBOARD_CAPTURED=0`; with
`SHARDBOARD_CAPTURED=static` steps of fixed shapes run also where there are no graphs, operation by operation.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import torch

from worker_agent.model.slicing import describe

log = logging.getLogger(__name__)

Pass = Callable[[], torch.Tensor]
"""Computes from tensors that stay where they are; what it gives may lie where it lay before."""
Capture = Callable[[Pass], Pass]
"""Makes of a pass one that does the same."""

WARM_UPS = 2
"""So often a pass runs before it is captured: in the first, libraries make their choices and take their memory."""


def why_not(device: torch.device) -> str:
    """Why nothing is captured on this device; empty where it is."""
    wanted = os.environ.get("SHARDBOARD_CAPTURED", "")
    if wanted == "0":
        return "switched off where this agent runs (SHARDBOARD_CAPTURED=0)"
    if device.type != "cuda" and wanted != "static":
        return f"{device.type} has no graphs to run again"
    return ""


def cost(device: torch.device) -> str:
    """What is to be said of steps of fixed shapes on this device; empty where they are captured."""
    return "" if device.type == "cuda" else f"operation by operation: {device.type} has no graphs to run again"


def capture_for(device: torch.device) -> Capture:
    """What captures passes on this device; where there are no graphs, what leaves them as they are."""
    return Graphs(device) if device.type == "cuda" else as_it_is


def as_it_is(run: Pass) -> Pass:
    return run


def or_as_it_is(capture: Capture, failed: Callable[[str], None]) -> Capture:
    """The same, but that what cannot be captured, for want of memory perhaps, runs as it is.

    Args:
        failed: is told why, each time.
    """

    def attempt(run: Pass) -> Pass:
        try:
            return capture(run)
        except RuntimeError as error:
            why = f"steps of one shape could not be captured and run operation by operation: {describe(error)}"
            log.warning("%s", why)
            failed(why)
            return run

    return attempt


class Graphs:
    """CUDA graphs of the passes of one stage, which share the memory between their operations: one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Pass) -> Pass:
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(current):  # a capture that fails leaves its own stream behind
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    run()
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Another thread may load a stage at the same time; what it does is none of this graph's business.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                output = run()

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay
