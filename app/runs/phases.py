"""Takes down the phases of a deployment or a job while it reports its progress."""

from __future__ import annotations

import time
from dataclasses import dataclass

from app.runs.trace import Phase


@dataclass
class _Open:
    name: str
    node_id: int | None
    node: str
    began_us: int
    ended_us: int
    total_bytes: int = 0
    already_bytes: int = 0

    def phase(self) -> Phase:
        return Phase(
            name=self.name, node_id=self.node_id, node=self.node, began_us=self.began_us, ended_us=self.ended_us,
            total_bytes=self.total_bytes, already_bytes=self.already_bytes,
        )  # fmt: skip


class PhaseRecorder:
    """One line of phases for each node, and one for what has no node. A phase ends when its line's next one begins."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lines: dict[tuple[int | None, str], _Open] = {}
        self._done: list[Phase] = []

    def note(
        self,
        name: str,
        *,
        node_id: int | None = None,
        node: str = "",
        total_bytes: int = 0,
        already_bytes: int = 0,
    ) -> None:
        """Progress was reported. Many reports of one phase make one entry."""
        at, line = self.now_us, (node_id, node)
        current = self._lines.get(line)
        if current is None or current.name != name:
            if current is not None:
                current.ended_us = at
                self._done.append(current.phase())
            current = self._lines[line] = _Open(name, node_id, node, at, at)
        current.ended_us = at
        current.total_bytes = max(current.total_bytes, total_bytes)
        current.already_bytes = max(current.already_bytes, already_bytes)

    def end(self) -> tuple[Phase, ...]:
        """All phases in the order in which they began; those under way end now."""
        at = self.now_us
        for current in self._lines.values():
            current.ended_us = at
            self._done.append(current.phase())
        self._lines.clear()
        return tuple(sorted(self._done, key=lambda phase: (phase.began_us, phase.node_id or 0)))

    @property
    def now_us(self) -> int:
        """Since the recorder was made."""
        return round((time.monotonic() - self._began) * 1_000_000)
