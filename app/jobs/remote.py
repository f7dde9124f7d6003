"""The job that puts an agent on another machine over SSH."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

from app.children.work import JobProgress
from app.jobs.job import Job, Means, Outcome
from app.registry import NodeRecord


@dataclass(frozen=True)
class SshWork:
    """Copy the agent there unless it is there, have it run, and register it."""

    target: str
    """user@host:port"""
    host_key: str | None = None
    python: str | None = None
    listen: str | None = None
    kind: str = "ssh"
    model: str = ""

    @property
    def queue(self) -> str:
        return f"ssh {self.target}"

    @property
    def title(self) -> str:
        return f"Add {self.target} over SSH"

    async def do(self, job: Job, means: Means) -> Outcome[NodeRecord]:
        def report(phase: str) -> None:
            job.report(JobProgress(phase, 0, 0))

        adding = asyncio.ensure_future(
            means.remote.add(
                means.nodes, self.target, host_key=self.host_key, python=self.python, listen=self.listen, report=report
            )
        )
        record = await job.ended(adding, partial(_cancel, adding))
        job.details.update(node=record.id)
        return Outcome(record, "", f"{record.hostname} is node {record.id}.")


def _cancel(adding: asyncio.Future[NodeRecord]) -> None:
    adding.cancel()
