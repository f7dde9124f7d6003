"""Takes down the course of one deployment, whether it comes to a good end or not."""

from __future__ import annotations

import asyncio
import logging

from app.children.work import NodeProgress
from app.errors import ShardboardError
from app.inference.deployer import OnProgress
from app.inference.facts import FactFinder, versions
from app.inference.pipeline import Pipeline
from app.models.description import ModelDescription
from app.registry import DeploymentRecord, Registry
from app.runs.phases import PhaseRecorder
from app.runs.trace import DeploymentTrace, Origin, Plan, StagePlan, pack
from app.sharding.placement import Placement

log = logging.getLogger(__name__)


class DeploymentRecorder:
    """Stands between a deployment and who follows its progress."""

    def __init__(
        self, registry: Registry, finder: FactFinder, placement: Placement, origin: Origin, on_progress: OnProgress
    ) -> None:
        self._registry, self._finder, self._placement = registry, finder, placement
        self._origin, self._on_progress = origin, on_progress
        self._phases = PhaseRecorder()
        self._record: DeploymentRecord | None = None

    def began(self, record: DeploymentRecord) -> None:
        self._record = record

    def progressed(self, progress: NodeProgress) -> None:
        self._phases.note(
            progress.phase,
            node_id=progress.node_id,
            node=progress.node,
            total_bytes=progress.total_bytes,
            already_bytes=progress.already_bytes,
        )
        self._on_progress(progress)

    async def succeeded(self, description: ModelDescription, record: DeploymentRecord, pipeline: Pipeline) -> None:
        """Write it down."""
        await self._write(description, record, self._finder.plan(record, pipeline, self._placement), None)

    async def failed(self, description: ModelDescription, error: BaseException) -> None:
        """Write it down, if it came as far as to have a record."""
        if self._record is not None:
            text = str(error) if isinstance(error, ShardboardError) else type(error).__name__
            await self._write(description, self._record, self._planned(self._record), text)

    async def _write(
        self, description: ModelDescription, record: DeploymentRecord, plan: Plan, error: str | None
    ) -> None:
        nodes = [stage.node_id for stage in plan.stages]
        phases, took = self._phases.end(), self._phases.now_us
        trace = DeploymentTrace(
            origin=self._origin,
            versions=versions(),
            model=await asyncio.to_thread(self._finder.model, description),
            plan=plan,
            nodes=self._finder.nodes(nodes),
            phases=phases,
            took_us=took,
            memory=self._finder.memory(nodes),
            error=error,
            foreseen=self._placement.foreseen,
        )
        try:
            await self._registry.call(lambda known: known.traces.put("deployment", record.id, pack(trace)))
        except ShardboardError as trouble:
            # The deployment itself is what counts; its record must not break it.
            log.error("the course of deployment %s could not be written down: %s", record.id, trouble)

    def _planned(self, record: DeploymentRecord) -> Plan:
        """The plan of a deployment that never got a pipeline, with the sizes that were computed."""
        stages = (
            StagePlan(
                stage=number, node_id=stage.node.node_id, node=stage.node.name, start=stage.start, end=stage.end,
                weight_bytes=stage.weight_bytes, kv_bytes=stage.kv_bytes,
            )
            for number, stage in enumerate(self._placement.stages)
        )  # fmt: skip
        return Plan.of(record, stages)
