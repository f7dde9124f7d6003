"""How much memory the stages of this agent may take, and how much they do."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from worker_agent.wire.messages import StageInfo
from worker_agent.wire.messages.parts import RECORDED_LAYER_BYTES


def main_memory_of(stages: Iterable[StageInfo], *, on_gpu: bool) -> int:
    """Bytes of main memory that stages take now: what lies in a GPU's does not count."""
    total = 0
    for stage in stages:
        total += stage.journal_bytes
        if not on_gpu:
            total += stage.weight_bytes + stage.kv_held_bytes
            if any(way.name == "recorded" and way.used for way in stage.ways):
                total += RECORDED_LAYER_BYTES * (stage.end - stage.start)
    return total


class MemoryBudget:
    """Bytes for weights and KV of all stages together. Any thread may ask."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._lock = threading.Lock()
        self._taken: dict[tuple[str, int], int] = {}
        self._weights: dict[tuple[str, int], tuple[object, int]] = {}

    @property
    def used(self) -> int:
        with self._lock:
            return sum(self._taken.values()) + sum(dict(self._weights.values()).values())

    @property
    def free(self) -> int:
        return max(0, self.total - self.used)

    def take(self, deployment: str, stage: int, nbytes: int, weights: object, weight_bytes: int) -> None:
        """Book a stage.

        Args:
            nbytes: what it takes beside its weights.
            weights: what stands for these; several stages may have the same, which count once.
        """
        with self._lock:
            self._taken[deployment, stage] = nbytes
            self._weights[deployment, stage] = (weights, weight_bytes)

    def release(self, deployment: str, stage: int) -> None:
        with self._lock:
            self._taken.pop((deployment, stage), None)
            self._weights.pop((deployment, stage), None)
