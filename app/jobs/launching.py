"""The job that has a launcher bring agents to machines."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

from app.children.work import JobProgress
from app.jobs.job import Job, Means, Outcome
from app.launchers.launcher import LocalWish, RayWish, SshWish, Wish
from app.registry import NodeRecord


@dataclass(frozen=True)
class LaunchWork:
    """Bring agents there as it is wished, have them run, and register them."""

    wish: Wish
    model: str = ""

    @property
    def kind(self) -> str:
        match self.wish:
            case LocalWish():
                return "local"
            case SshWish():
                return "ssh"
            case RayWish():
                return "ray"

    @property
    def queue(self) -> str:
        return f"ssh {self.wish.target}" if isinstance(self.wish, SshWish) else self.kind

    @property
    def title(self) -> str:
        return self.wish.title

    async def do(self, job: Job, means: Means) -> Outcome[list[NodeRecord]]:
        def report(phase: str) -> None:
            job.report(JobProgress(phase, 0, 0))

        bringing = asyncio.ensure_future(means.launchers.start(self.wish, report))
        records = await job.ended(bringing, partial(_cancel, bringing))
        job.details.update(nodes=[record.id for record in records])
        names = ", ".join(f"{record.hostname} is node {record.id}" for record in records)
        return Outcome(records, "", f"{names}.")


def _cancel(bringing: asyncio.Future[list[NodeRecord]]) -> None:
    bringing.cancel()
