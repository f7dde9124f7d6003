"""A run: all that is known of one request, deployment or job, in the form in which it is exported.

`docs/formats.md` describes it for those who read exports; `docs/schemas` has its JSON Schema, made from these types.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from app.runs.trace import DeploymentTrace, JobTrace, Origin, Plan, RequestTrace

FORMAT = "shardboard.run"
VERSION = 1

RunKind = Literal["request", "deployment", "job"]


class RunEvent(Struct, frozen=True, kw_only=True):
    """Something that happened meanwhile: to the run itself, its deployment, or a node that took part."""

    at: datetime
    level: str
    source: str
    message: str
    node_id: int | None = None
    node: str = ""
    details: dict[str, Any] = {}


class RequestFacts(Struct, frozen=True, kw_only=True):
    """What was asked and answered. `timings` in seconds, by name."""

    prompt: str
    result: str
    parameters: dict[str, Any]
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    timings: dict[str, float]
    deployment_id: str | None

    @property
    def seed(self) -> int | None:
        seed = self.parameters.get("seed")
        return seed if isinstance(seed, int) else None


class JobFacts(Struct, frozen=True, kw_only=True):
    """What a job was and what came of it."""

    kind: str
    title: str
    details: dict[str, Any]


class Run(Struct, frozen=True, kw_only=True):
    """All that is known of one request, deployment or job.

    Exactly one of `request` and `job` is there for those kinds; `trace` where one was kept.
    """

    format: Literal["shardboard.run"] = "shardboard.run"
    version: int = VERSION
    kind: RunKind
    id: str
    """Of the request, the deployment or the job; unique with `kind`."""
    model: str | None
    status: str
    error: str | None
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    request: RequestFacts | None = None
    job: JobFacts | None = None
    trace: RequestTrace | DeploymentTrace | JobTrace | None = None
    events: tuple[RunEvent, ...] = ()

    @property
    def request_trace(self) -> RequestTrace | None:
        return self.trace if isinstance(self.trace, RequestTrace) else None

    @property
    def plan(self) -> Plan | None:
        return None if self.trace is None or isinstance(self.trace, JobTrace) else self.trace.plan

    @property
    def origin(self) -> Origin:
        return self.trace.origin if self.trace is not None else Origin()
