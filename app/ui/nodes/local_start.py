"""What the user asked for when starting agents here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.controller import Controller
    from app.registry.records import NodeRecord


@dataclass(frozen=True)
class LocalStart:
    """None leaves the choice to the controller."""

    count: int
    threads: int | None
    memory: int | None
    """Bytes."""
    device: str | None
    keep: bool
    """Whether the agents go on when the window ends."""

    async def carry_out(self, controller: Controller, report: object) -> list[NodeRecord]:
        """On the controller's loop. Raises NodeError or BadInput."""
        return await controller.launch_local(
            self.count, threads=self.threads, memory=self.memory, device=self.device, keep=self.keep
        )
