"""How fast this agent reads weights and computes, measured as its stages do it.

Only the compute thread measures, since it alone may have OpenMP threads, and only while it holds no stage. It
does so in turns of a few tenths of a second, with pauses between: when agents of one machine start
together, or another program is busy, the best turn is the one that tells what the machine can do.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from worker_agent.engine.runtime import Runtime
from worker_agent.host.home import lock_file
from worker_agent.model.linears import packed
from worker_agent.model.linears.blocks import halves
from worker_agent.wire.messages import ComputeDType, Speed

DTYPES: tuple[ComputeDType, ...] = get_args(ComputeDType)
PAUSES = (1.0, 5.0, 30.0)
"""Seconds between two rounds, in each of which every dtype has its turn."""
PROMPT_ROWS = 256
"""Rows of a step that is bound by arithmetic: the longest chunk of a prompt."""
_WIDTH = 1024
_CPU_BYTES = 256 * 2**20
_GPU_BYTES = 512 * 2**20
"""Weights to read in a turn: more than a cache holds on most machines."""
_PIECES = 16
"""The weights are read and timed in so many pieces: of a busy moment, a few of them are spoilt and not all."""
_LOOK_SECONDS = 0.06
"""How long to look at one figure, where that is enough for one look."""


def is_wanted() -> bool:
    """Whether this agent is to measure itself; nothing is predicted of one that does not."""
    return os.environ.get("SHARDBOARD_SPEED") != "0"


class SpeedMeter:
    """Measures when it is asked to, a turn at a time; keeps the best of each figure. Compute thread only."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._left = list(DTYPES) * (1 + len(PAUSES)) if is_wanted() else []
        self._best: dict[ComputeDType, Speed] = {}
        self._pauses = iter(PAUSES)
        self._rest_until = 0.0

    @property
    def speeds(self) -> tuple[Speed, ...]:
        """What is known so far."""
        return tuple(self._best.values())

    def turn(self) -> bool:
        """Measure one dtype, unless this agent or another one on this machine should wait. False when all is done."""
        if not self._left:
            return False
        if time.monotonic() < self._rest_until:
            return True
        with _alone_on_this_machine() as alone:
            if alone:
                name = self._left.pop(0)
                found, known = measure(name, self._runtime), self._best.get(name)
                self._best[name] = found if known is None else _better(known, found)
                if len(self._left) % len(DTYPES) == 0:
                    self._rest_until = time.monotonic() + next(self._pauses, 0.0)
        return bool(self._left)


@torch.inference_mode()
def measure(name: ComputeDType, runtime: Runtime) -> Speed:
    """Read matrices with one row, and multiply one with many rows, with the threads of a step alone in flight."""
    runtime.apply(alone=True)
    device, dtype = torch.device(runtime.device), getattr(torch, name)
    matrices = _matrices(device, dtype)
    row, rows = (torch.full((1, count, _WIDTH), 0.01, dtype=dtype, device=device) for count in (1, PROMPT_ROWS))

    def read(piece: Sequence[nn.Module]) -> None:
        for matrix in piece:
            matrix(row)

    size = max(1, len(matrices) // _PIECES)
    pieces = [matrices[start : start + size] for start in range(0, len(matrices) - size + 1, size)]
    reading = _typical([partial(read, piece) for piece in pieces], device)
    multiplying = _typical([partial(matrices[0], rows)], device)
    weight_bytes = _WIDTH * _WIDTH * dtype.itemsize
    return Speed(name, size * weight_bytes / reading, 2 * PROMPT_ROWS * _WIDTH * _WIDTH / multiplying)


def _matrices(device: torch.device, dtype: torch.dtype) -> list[nn.Module]:
    """Linear layers as a stage would run them."""
    budget = _CPU_BYTES if device.type == "cpu" else _GPU_BYTES
    found: list[nn.Module] = []
    for _ in range(budget // (_WIDTH * _WIDTH * dtype.itemsize)):
        linear = nn.Linear(_WIDTH, _WIDTH, bias=False, device="meta")
        # Real numbers: kernels are slow on what lies in memory by chance, and pages never written are not read.
        weight = torch.full((_WIDTH, _WIDTH), 0.01, dtype=dtype, device=device)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        layer: nn.Module | str = linear
        if halves.can(device, dtype):
            layer = halves.laid_out(linear)
        elif packed.can_pack(device, dtype) and weight.numel() >= packed.LEAST_ELEMENTS[dtype]:
            layer = packed.PackedLinear(linear)
        found.append(linear if isinstance(layer, str) else layer)
    return found


def _typical(works: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Seconds that one of a few equal works takes when nothing else is in the way: their lower quartile."""
    times: list[float] = []
    ends = time.perf_counter() + _LOOK_SECONDS
    works[0]()  # warms up: threads, and kernels that are made when they are first used
    while not times or time.perf_counter() < ends:
        for work in works:
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            elif device.type == "mps":
                torch.mps.synchronize()
            times.append(time.perf_counter() - began)
    return max(1e-9, sorted(times)[len(times) // 4])


def _better(one: Speed, other: Speed) -> Speed:
    return Speed(
        one.dtype,
        max(one.read_bytes_per_second, other.read_bytes_per_second),
        max(one.flops_per_second, other.flops_per_second),
    )


@contextmanager
def _alone_on_this_machine() -> Iterator[bool]:
    """Whether no other agent of this user measures at this moment; where that cannot be told, it is taken to be so."""
    try:
        file = (Path(tempfile.gettempdir()) / "shardboard-speed.lock").open("a+", encoding="ascii")
    except OSError:
        yield True  # another user's, or no such folder
        return
    with file:
        try:
            lock_file(file)
        except OSError:
            yield False
            return
        yield True
