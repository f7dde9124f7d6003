"""How much memory the stages of this agent may take, and how much they do."""

from __future__ import annotations

import threading


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
