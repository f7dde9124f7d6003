"""A deployment under way, as the board follows it: from taking down the old one to the first token it could make.

The work runs on the controller's loop; here are its progress, its end and what can be done about a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal, Slot

from app.errors import ShardboardError
from app.figures import amount_text, data_rate, size_text, time_left
from app.sharding.placement import Placement
from app.ui.board.state.lanes import NodeProgress
from app.ui.bridge import window_origin
from app.ui.notices import Level, NoticeAction

if TYPE_CHECKING:
    from app.children.work import JobProgress
    from app.controller import Controller
    from app.inference.deployer import DeployProgress
    from app.ui.bridge import Call, Report
    from app.ui.workbench import Workbench

PHASES = {
    "hashing": "Reading the weights",
    "sending": "Sending",
    "loading": "Loading",
    "linking": "Linking",
    "ready": "Ready",
}
WITH_BYTES = ("sending", "loading", "linking", "ready")
"""Phases whose bytes make up how far all of it is; the last two have all of them behind them."""


@dataclass(frozen=True)
class TookDown:
    """The deployment that stood in the way is gone."""


@dataclass(frozen=True)
class Failure:
    """A deployment that failed, with all it takes to try again."""

    placement: Placement
    error: ShardboardError
    previous: Placement | None
    """What was deployed before and was taken down for it."""

    @property
    def text(self) -> str:
        """What failed and why, in one or two sentences."""
        taken = " The deployment it replaced was taken down before." if self.previous is not None else ""
        return f"{self.error.message}{taken}"


class Deploying(QObject):
    """One deployment at a time. All methods belong to the GUI thread."""

    changed = Signal()
    """It began, ended, failed, or got on."""
    ended = Signal()

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.placement: Placement | None = None
        """What is being deployed."""
        self.failure: Failure | None = None
        self.is_cancelling = False
        self._workbench = workbench
        self._call: Call | None = None
        self._previous: Placement | None = None
        self._took_down = False
        self._phase = ""
        self._nodes: dict[int, NodeProgress] = {}
        self._hashing: NodeProgress | None = None

    @property
    def is_active(self) -> bool:
        return self._call is not None

    @property
    def model_name(self) -> str | None:
        """The model that is being deployed."""
        return self.placement.model_name if self.is_active and self.placement is not None else None

    @property
    def nodes(self) -> dict[int, NodeProgress]:
        """How far each node is."""
        return self._nodes

    @property
    def overall(self) -> NodeProgress:
        """How far all of it is."""
        if self._hashing is not None and self._phase == "hashing":
            return self._hashing
        parts = [part for part in self._nodes.values() if part.phase == self._phase]
        whole = [part for part in self._nodes.values() if part.phase in WITH_BYTES]
        done, total = sum(part.done_bytes for part in whole), sum(part.total_bytes for part in whole)
        speed = sum(part.bytes_per_second for part in parts)
        left = [part.seconds_left for part in parts if part.seconds_left is not None]
        phase = "cancelling" if self.is_cancelling else self._phase
        already = sum(part.already_bytes for part in whole)
        return progress_of(phase, already, done, total, speed, max(left) if left else None)

    def start(self, placement: Placement, previous: Placement | None) -> None:
        """Take down what the model has deployed, then carry out the placement.

        Args:
            previous: what is deployed of the model now.
        """
        self.placement, self.failure, self._previous = placement, None, previous
        self._took_down = self.is_cancelling = False
        self._phase, self._hashing = "hashing", None
        self._nodes = {stage.node.node_id: progress_of("waiting", 0, 0, 0, 0.0, None) for stage in placement.stages}

        async def work(controller: Controller, report: Report) -> Any:
            if await controller.deployments.ready(placement.model_name):
                await asyncio.shield(controller.undeploy(placement.model_name))
                report(TookDown())
            return (await controller.deploy_placement(placement, report, origin=window_origin())).record

        call = self._workbench.bridge.call(work, f"deploying {placement.model_name}")
        self._call = call
        call.progressed.connect(self._on_progress)
        call.done.connect(self._on_done)
        call.failed.connect(self._on_failed)
        call.cancelled.connect(self._on_cancelled)
        self._workbench.notices.withdraw(self._key)
        self._show_in_jobs(call)
        self.changed.emit()

    def cancel(self) -> None:
        """End it; what was loaded is unloaded, what was sent stays on the nodes for the next time."""
        if self._call is not None and not self.is_cancelling:
            self.is_cancelling = True
            self._call.cancel()
            self.changed.emit()

    def retry(self) -> None:
        """The same placement again; what the nodes have received already is not sent again."""
        if self.failure is not None and not self.is_active:
            self.start(self.failure.placement, None)

    def restore_previous(self) -> None:
        """Deploy again what was taken down for the placement that failed."""
        if self.failure is not None and self.failure.previous is not None and not self.is_active:
            self.start(self.failure.previous, None)

    def dismiss(self) -> None:
        """The user has read of the failure."""
        if self.failure is not None:
            self.failure = None
            self._workbench.notices.withdraw(self._key)
            self.changed.emit()

    @property
    def _key(self) -> str:
        return f"deploy {self.placement.model_name if self.placement is not None else ''}"

    def _show_in_jobs(self, call: Call) -> None:
        name = self.placement.model_name if self.placement is not None else ""
        self._workbench.jobs.follow(
            "deploy", f"Deploy {name}", call, self._job_progress, retry=self.retry,
            describe=lambda record: f"{name} is deployed.", model=name,
        )  # fmt: skip

    def _job_progress(self, item: object) -> JobProgress:
        """All nodes together, for the jobs dock."""
        from app.children.work import JobProgress

        now = self.overall
        return JobProgress(now.phase, now.done_bytes, now.total_bytes, now.bytes_per_second, now.seconds_left)

    @Slot(object)
    def _on_progress(self, batch: Iterable[TookDown | DeployProgress]) -> None:
        for item in batch:
            if isinstance(item, TookDown):
                self._took_down = True
                continue
            self._phase = item.phase
            told = progress_of(
                item.phase, item.already_bytes, item.done_bytes, item.total_bytes, item.bytes_per_second,
                item.seconds_left,
            )  # fmt: skip
            if item.phase == "hashing":
                self._hashing = told
            elif item.node_id is not None:
                if item.phase == "ready":
                    total = self._nodes[item.node_id].total_bytes if item.node_id in self._nodes else 0
                    told = progress_of("ready", 0, total, total, 0.0, None)
                self._nodes[item.node_id] = told
        self.changed.emit()

    @Slot(object)
    def _on_done(self, record: object) -> None:
        placement = self.placement
        assert placement is not None
        self._end()
        count = len({stage.node.node_id for stage in placement.stages})
        name = placement.model_name
        where = f"on {placement.stages[0].node.name}" if count == 1 else f"on {count} nodes"
        self._workbench.notices.toast(
            f"{name} is deployed {where}",
            Level.SUCCESS,
            NoticeAction("Open chat", lambda: self._workbench.navigate.emit("chat", name)),
        )

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        placement = self.placement
        assert placement is not None
        self.failure = Failure(placement, error, self._previous if self._took_down else None)
        actions = [NoticeAction("Retry", self.retry)]
        if self.failure.previous is not None:
            actions.append(NoticeAction("Deploy the previous placement again", self.restore_previous))
        what = f"{placement.model_name} could not be deployed"
        if self.failure.previous is not None:
            what += ", and the deployment it replaced was taken down before"
        self._workbench.notices.error(what, error, *actions, key=self._key)
        self._end()

    @Slot()
    def _on_cancelled(self) -> None:
        placement, previous = self.placement, self._previous if self._took_down else None
        name = placement.model_name if placement is not None else ""
        actions = []
        if previous is not None:
            actions.append(NoticeAction("Deploy the previous placement again", lambda: self.start(previous, None)))
        self._end()
        self._workbench.notices.toast(
            f"Deploying {name} was cancelled. What the nodes have received stays there for the next time.",
            Level.INFO,
            *actions,
        )

    def _end(self) -> None:
        self._call = None
        self._nodes, self._hashing, self._phase = {}, None, ""
        self.is_cancelling = False
        self.changed.emit()
        self.ended.emit()


def progress_of(
    phase: str, already: int, done: int, total: int, speed: float, seconds_left: float | None
) -> NodeProgress:
    """Figures with their line of text: Sending 1.2 of 4 GB (800 MB were there), 110 MB/s, 25 s left."""
    words = [PHASES.get(phase, phase.capitalize())]
    if total and phase in ("hashing", "sending", "loading"):
        words = [f"{words[0]} {amount_text(done, total)}"]
        if already:
            words[0] += f" ({size_text(already)} were there)"
        if speed > 0:
            words.append(data_rate(speed))
            if seconds_left is not None:
                words.append(f"{time_left(seconds_left)} left")
    return NodeProgress(phase, already, done, total, speed, seconds_left, ", ".join(words))
