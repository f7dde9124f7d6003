"""The jobs that have launchers bring agents to machines, and start them anew with today's program."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from app.children.work import JobProgress
from app.jobs.job import Job, Means, Outcome
from app.launchers.launcher import LocalWish, RayWish, Report, SshWish, Wish
from app.registry import NodeRecord
from worker_agent import __version__

Result = TypeVar("Result")


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
        records = await _ended(job, means.launchers.start(self.wish, _phases(job)))
        job.details.update(nodes=[record.id for record in records])
        names = ", ".join(f"{record.hostname} is node {record.id}" for record in records)
        return Outcome(records, "", f"{names}.")


@dataclass(frozen=True)
class UpdateWork:
    """End the agent of a node that a launcher has brought and start it with today's program."""

    node_id: int
    name: str
    kind: str = "update"
    model: str = ""

    @property
    def queue(self) -> str:
        return f"update {self.node_id}"

    @property
    def title(self) -> str:
        return f"Update the agent of {self.name}"

    async def do(self, job: Job, means: Means) -> Outcome[NodeRecord]:
        job.details.update(nodes=[self.node_id])
        record = await _ended(job, means.launchers.update(self.node_id, _phases(job)))
        return Outcome(record, "", f"{record.hostname} runs with Shardboard {__version__}.")


def _phases(job: Job) -> Report:
    """Takes what a launcher says that it does."""
    return lambda phase: job.report(JobProgress(phase, 0, 0))


async def _ended(job: Job, doing: Coroutine[Any, Any, Result]) -> Result:
    task = asyncio.ensure_future(doing)

    def cancel() -> None:
        task.cancel()

    return await job.ended(task, cancel)
