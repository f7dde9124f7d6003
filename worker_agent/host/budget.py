"""How much memory the stages of this agent may take, and how much they do."""

from __future__ import annotations

import threading


class MemoryBudget:
    """Bytes for weights and KV of all stages together. Any thread may ask."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._lock = threading.Lock()
        self._taken: dict[tuple[str, int], int] = {}

    @property
    def used(self) -> int:
        with self._lock:
            return sum(self._taken.values())

    @property
    def free(self) -> int:
        return max(0, self.total - self.used)

    def take(self, deployment: str, stage: int, nbytes: int) -> None:
        with self._lock:
            self._taken[deployment, stage] = nbytes

    def release(self, deployment: str, stage: int) -> None:
        with self._lock:
            self._taken.pop((deployment, stage), None)
