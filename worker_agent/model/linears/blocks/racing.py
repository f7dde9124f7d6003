"""From how many rows of input on it is faster to unfold a matrix: measured for each shape, kept for this machine."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import platformdirs
import torch

from worker_agent.model.linears.blocks import building
from worker_agent.model.linears.blocks.formats import Blocks

log = logging.getLogger(__name__)

COUNTS = (4, 8, 16, 32, 64, 256)
ROUNDS = 3
NEVER = 1 << 30
_known: dict[str, int] = {}


def first_of_many(
    blocks: Blocks,
    dtype: torch.dtype,
    few: Callable[[Blocks, torch.Tensor], torch.Tensor],
    many: Callable[[Blocks, torch.Tensor], torch.Tensor],
) -> int:
    """The least number of rows of input for which `many` is faster, of those that are tried; else `NEVER`."""
    if building.kernels() is None:
        return 1
    key = f"{blocks.format} {blocks.rows} x {blocks.columns} {str(dtype).removeprefix('torch.')}"
    if not _known:
        _known.update(_kept())
    if key not in _known:
        _known[key] = _raced(blocks, dtype, few, many)
        _keep()
    return _known[key]


@torch.inference_mode()
def _raced(
    blocks: Blocks,
    dtype: torch.dtype,
    few: Callable[[Blocks, torch.Tensor], torch.Tensor],
    many: Callable[[Blocks, torch.Tensor], torch.Tensor],
) -> int:
    for count in COUNTS:
        rows = torch.randn(count, blocks.columns).to(dtype)
        best = {few: float("inf"), many: float("inf")}
        for _ in range(ROUNDS):
            for way in best:  # in turn, so that what else runs here slows both
                began = time.perf_counter()
                way(blocks, rows)
                best[way] = min(best[way], time.perf_counter() - began)
        if best[many] < best[few]:
            return count
    return NEVER


def _file() -> Path:
    return Path(platformdirs.user_cache_dir("shardboard", appauthor=False)) / "kernels" / "races.json"


def _machine() -> str:
    """What a race's result holds for."""
    processor, level = platform.processor() or platform.machine(), torch.backends.cpu.get_cpu_capability()
    kernels = building.kernels()
    tiles = " tiles" if kernels is not None and kernels.has_tiles else ""
    return f"{processor} {level}{tiles} {torch.__version__} {building.source_digest()}"


def _all_kept() -> dict[str, dict[str, int]]:
    """What is kept, of each machine: several may share a home."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        return {
            str(machine): {str(key): int(value) for key, value in found.items()}
            for machine, found in json.loads(_file().read_text(encoding="utf-8")).items()
        }
    return {}


def _kept() -> dict[str, int]:
    return _all_kept().get(_machine(), {})


def _keep() -> None:
    """Written whole; of two agents that race at the same time the later one's word stands, and both are right."""
    path = _file()
    try:
        waiting = path.with_name(f"{path.name}.{time.monotonic_ns()}")
        waiting.write_text(json.dumps(_all_kept() | {_machine(): _known}, indent=1), encoding="utf-8")
        waiting.replace(path)
    except OSError as error:
        log.info("what was measured of matrices in blocks is not kept: %s", error)
