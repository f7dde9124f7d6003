"""Nodes and deployments as the window shows them at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cluster.node_state import ANSWERING, NOTHING, Heard, NodeState, node_state
from app.registry.records import DeploymentRecord, DeploymentStatus, NodeRecord, ShardRecord
from app.sharding.capacity import KnownNode

if TYPE_CHECKING:
    from app.launchers.launcher import LauncherName
    from worker_agent.wire.messages import HealthReport, StageInfo


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """A node as the window shows it now."""

    record: NodeRecord
    heard: Heard = NOTHING
    report: HealthReport | None = None
    """The last health report, kept while it is down."""
    rtt: float | None = None
    """Seconds."""
    memory_problem: str = ""
    """Why its process does not hold what is accounted for; empty while it does."""
    launcher: LauncherName | None = None
    """What has brought its agent; None where somebody started it there."""

    @property
    def id(self) -> int:
        return self.record.id

    @property
    def state(self) -> NodeState:
        return node_state(self.record, self.heard)

    @property
    def reason(self) -> str:
        """Why it is down, stopped or frozen."""
        return self.heard.reason

    @property
    def name(self) -> str:
        return self.record.hostname

    @property
    def is_here(self) -> bool:
        """Whether its agent was launched on this machine by Shardboard."""
        return self.record.local_pid is not None

    @property
    def is_ours(self) -> bool:
        """Whether its agent can be stopped and started from here."""
        return self.is_here or self.launcher is not None

    @property
    def known(self) -> KnownNode:
        """What it has to offer is reckoned from this."""
        return KnownNode(self.record, self.report)

    @property
    def memory_budget(self) -> int:
        """Bytes that stages may take in all."""
        return self.known.budget

    def stage(self, deployment: str, stage: int) -> StageInfo | None:
        """A stage as its agent told it last; None when it is not there, or nothing is heard of it."""
        held = self.report.stages if self.report is not None and self.state in ANSWERING else ()
        return next((info for info in held if (info.deployment, info.stage) == (deployment, stage)), None)

    @property
    def chip(self) -> str:
        """What it computes on, for people: the GPU's name, else the CPU's."""
        gpus = self.record.capacities.get("gpus")
        if isinstance(gpus, list | tuple) and gpus and isinstance(gpus[0], dict):
            return str(gpus[0].get("name", "GPU"))
        return str(self.record.capacities.get("cpu_name", "") or "unknown processor")


@dataclass(frozen=True, slots=True)
class DeploymentSnapshot:
    """A deployment with its shards, in pipeline order."""

    record: DeploymentRecord
    shards: tuple[ShardRecord, ...]

    @property
    def is_ready(self) -> bool:
        return self.record.status is DeploymentStatus.READY
