"""The job that waits for an agent which was invited."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from app.children.work import JobProgress
from app.cluster.invitations import VALID_SECONDS, JoinCommand, first_to_join
from app.jobs.job import Job, Means, Outcome
from app.registry import NodeRecord


@dataclass(frozen=True)
class InviteWork:
    """Listen for one agent that joins with an invitation, and register it."""

    listen: str
    """As `host:port`; port 0 is any free one."""
    reachable_as: str | None
    """Host under which other machines reach this one, where that is another."""
    told: Callable[[JoinCommand], None]
    """Is given what to run on the other machine. No record has it: whoever knows it may join."""
    kind: str = "invite"
    model: str = ""
    once: bool = True
    """Nobody would learn of the command of another beginning."""
    queue: str = field(default_factory=lambda: f"invite {secrets.token_hex(8)}")
    """Its own: none waits for another."""

    @property
    def title(self) -> str:
        return f"Wait for a machine to join at {self.listen}"

    async def do(self, job: Job, means: Means) -> Outcome[NodeRecord]:
        waiting = asyncio.ensure_future(
            first_to_join(
                means.identity, means.nodes, self.listen, self.told, reachable_as=self.reachable_as,
                seconds=VALID_SECONDS,
            )
        )  # fmt: skip

        def cancel() -> None:
            waiting.cancel()

        job.report(JobProgress("waiting for the agent to join", 0, 0))
        record = await job.ended(waiting, cancel)
        job.details.update(nodes=[record.id])
        return Outcome(record, "", f"{record.hostname} is node {record.id}.")
