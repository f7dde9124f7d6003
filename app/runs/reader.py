"""Puts runs together from the registry: the row, the trace, and what happened meanwhile. Everything here blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from app.registry import (
    DeploymentRecord,
    DeploymentStatus,
    EventRecord,
    JobRecord,
    NodeRecord,
    Registry,
    RequestRecord,
)
from app.runs.run import JobFacts, RequestFacts, Run, RunEvent, RunKind
from app.runs.trace import DeploymentTrace, JobTrace, Plan, RequestTrace, StagePlan, Trace, origin_of, unpack

MOST_EVENTS = 1_000
"""Of one run; a run that lasted for days may have had more."""
A_MOMENT = timedelta(seconds=1)
_PAGE = 100


class RunReader:
    """Reads runs, one at a time, so that an export of many needs no more memory than its longest."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def find(self, kind: RunKind, id: str) -> Run:
        """Raises RegistryError when there is none, or the id is no number where it has to be one."""
        if kind == "deployment":
            return self.deployment(id)
        number = int(id) if id.isascii() and id.isdigit() and len(id) < 19 else 0
        return self.request(number) if kind == "request" else self.job(number)

    def request(self, id: int) -> Run:
        return self._of_request(self._registry.requests.get(id))

    def deployment(self, id: str) -> Run:
        return self._of_deployment(self._registry.deployments.get(id))

    def job(self, id: int) -> Run:
        return self._of_job(self._registry.jobs.get(id))

    def select(
        self,
        *,
        kinds: Sequence[RunKind] = ("request",),
        ids: Sequence[str | int] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        model: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Run]:
        """Runs kind by kind, the newest first; with `ids` those, in the order given.

        What is begun or removed while the listing is read neither shifts nor repeats the others.
        """
        count = 0
        for kind in kinds:
            found = (self.find(kind, str(id)) for id in ids) if ids is not None else self._all(kind, since, until)
            for run in found:
                if model is not None and run.model != model:
                    continue
                if limit is not None and count >= limit:
                    return
                count += 1
                yield run

    # --- listings ---

    def _all(self, kind: RunKind, since: datetime | None, until: datetime | None) -> Iterator[Run]:
        if kind == "deployment":
            for deployment in sorted(self._registry.deployments.list(), key=lambda one: one.created_at, reverse=True):
                if (since is None or deployment.created_at >= since) and (
                    until is None or deployment.created_at < until
                ):
                    yield self._of_deployment(deployment)
        elif kind == "request":
            newest, offset = self._registry.requests.newest(), 0
            while page := self._registry.requests.list(
                offset=offset, limit=_PAGE, since=since, until=until, last_id=newest
            ):
                offset += len(page)
                yield from map(self._of_request, page)
        else:
            newest, offset = self._registry.jobs.newest(), 0
            while jobs := self._registry.jobs.list(
                offset=offset, limit=_PAGE, since=since, until=until, last_id=newest
            ):
                offset += len(jobs)
                yield from map(self._of_job, jobs)

    # --- one run ---

    def _of_request(self, record: RequestRecord) -> Run:
        trace = self._trace("request", str(record.id))
        if trace is None and record.origin:
            trace = RequestTrace(
                origin=origin_of(record.origin), prompt_kept=bool(record.prompt or record.prompt_token_ids)
            )
        return Run(
            kind="request",
            id=str(record.id),
            model=record.model_name,
            status=record.status,
            error=record.error,
            created_at=record.created_at,
            started_at=record.started_at,
            completed_at=record.completed_at,
            request=RequestFacts(
                prompt=record.prompt,
                result=record.result,
                parameters=record.parameters,
                prompt_token_ids=record.prompt_token_ids,
                token_ids=record.token_ids,
                finish_reason=record.finish_reason,
                prompt_tokens=record.prompt_tokens,
                completion_tokens=record.completion_tokens,
                timings=record.timings,
                deployment_id=record.deployment_id,
            ),
            trace=trace,
            events=self._events(record.created_at, record.completed_at, record.deployment_id, record.id, trace),
        )

    def _of_deployment(self, record: DeploymentRecord) -> Run:
        trace = self._trace("deployment", record.id)
        under_way = record.status is DeploymentStatus.LOADING
        over = None if under_way else record.updated_at
        return Run(
            kind="deployment",
            id=record.id,
            model=record.model_name,
            status=record.status,
            error=record.error,
            created_at=record.created_at,
            started_at=record.created_at,
            completed_at=over,
            trace=DeploymentTrace(plan=self._plan(record)) if trace is None else trace,
            events=self._events(record.created_at, over, record.id, None, trace),
        )

    def _plan(self, record: DeploymentRecord) -> Plan:
        """Of a deployment under way, or one whose trace is gone: what its rows tell."""
        names = {node.id: node.hostname for node in self._registry.nodes.list()}
        shards = sorted(self._registry.shards.list(deployment_id=record.id), key=lambda shard: shard.start_layer)
        stages = tuple(
            StagePlan(
                stage=number, node_id=shard.node_id or 0, node=names.get(shard.node_id or 0, "no node"),
                start=shard.start_layer, end=shard.end_layer,
            )
            for number, shard in enumerate(shards)
        )  # fmt: skip
        return Plan(
            deployment=record.id, plan_hash=record.plan_hash, model=record.model_name,
            **asdict(record.serving), epoch=record.epoch, stages=stages,
        )  # fmt: skip

    def _of_job(self, record: JobRecord) -> Run:
        trace = self._trace("job", str(record.id))
        if trace is None and record.origin:
            trace = JobTrace(origin=origin_of(record.origin))
        return Run(
            kind="job",
            id=str(record.id),
            model=record.model_name,
            status=record.status,
            error=record.error,
            created_at=record.created_at,
            started_at=record.started_at,
            completed_at=record.completed_at,
            job=JobFacts(kind=record.kind, title=record.title, details=record.details),
            trace=trace,
        )

    def _trace(self, kind: RunKind, id: str) -> Trace | None:
        data = self._registry.traces.get(kind, id)
        return None if data is None else unpack(data)

    def _events(
        self,
        since: datetime,
        until: datetime | None,
        deployment: str | None,
        request: int | None,
        trace: Trace | None,
    ) -> tuple[RunEvent, ...]:
        """What happened to the run, its deployment and its nodes, oldest first."""
        # What is said of an end, as that a node was lost, comes a moment after it.
        until = datetime.now(UTC) if until is None else until + A_MOMENT
        plan = trace.plan if isinstance(trace, RequestTrace | DeploymentTrace) else None
        nodes = {stage.node_id for stage in plan.stages} if plan is not None else set()
        happened = self._registry.events.list(
            since=since, until=until, limit=MOST_EVENTS, of_run=(nodes, deployment, request)
        )
        mine = happened[::-1]
        names = {node.id: node for node in self._registry.nodes.list()} if mine else {}
        return tuple(_event(event, names) for event in mine)


def _event(event: EventRecord, nodes: dict[int, NodeRecord]) -> RunEvent:
    node = nodes.get(event.node_id) if event.node_id is not None else None
    return RunEvent(
        at=event.at,
        level=event.level,
        source=event.source,
        message=event.message,
        node_id=event.node_id,
        node="" if node is None else node.hostname,
        details=event.details,
    )
