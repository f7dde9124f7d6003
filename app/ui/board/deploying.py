"""A deployment under way, as the board shows it: a job of the desk, whoever began it, and how each node gets on.

Of those that this window began it is said how they ended, and what can be done about a failure.
"""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QObject, Signal, Slot

from app.children.work import JobProgress, NodeProgress
from app.errors import ShardboardError
from app.jobs.job import JobSnapshot
from app.registry.records import JobStatus
from app.sharding.placement import Placement
from app.ui.jobs.shown_job import ShownJob
from app.ui.notices import Level, NoticeAction
from app.ui.workbench import Workbench


@dataclass(frozen=True)
class Failure:
    """A deployment that failed, with all it takes to try again."""

    placement: Placement
    error: ShardboardError
    previous: Placement | None
    """What was deployed before and was taken down for it."""
    live: bool = False
    """Whether stages were to move while the model answers: it goes on where it is."""

    @property
    def title(self) -> str:
        what = "could not be moved" if self.live else "could not be deployed"
        what = "could not get a replica" if self.placement.replica_of else what
        return f"{self.placement.model_name} {what}"

    @property
    def text(self) -> str:
        """What failed and why, in one or two sentences."""
        if self.live:
            return f"{self.error.message} It answers as before."
        taken = " The deployment it replaced was taken down before." if self.previous is not None else ""
        return f"{self.error.message}{taken}"


class Deploying(QObject):
    """One deployment at a time. All methods belong to the GUI thread."""

    changed = Signal()
    """It began, ended, failed, or got on."""
    ended = Signal()

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.failure: Failure | None = None
        self._workbench = workbench
        self._job: ShownJob | None = None
        self._previous: Placement | None = None
        workbench.jobs.job_added.connect(self._on_added)
        workbench.jobs.job_changed.connect(self._on_changed)
        workbench.jobs.job_ended.connect(self._on_ended)
        self._take_next()

    @property
    def is_active(self) -> bool:
        return self._job is not None

    @property
    def is_cancelling(self) -> bool:
        return self._job is not None and self._job.view.is_ending

    @property
    def placement(self) -> Placement | None:
        """What is being deployed."""
        return _placement(self._job) if self._job is not None else None

    @property
    def is_live(self) -> bool:
        """Whether stages move while the model answers."""
        return self._job is not None and _is_live(self._job)

    @property
    def model_name(self) -> str | None:
        """The model that is being deployed."""
        return self._job.view.model if self._job is not None else None

    @property
    def nodes(self) -> dict[int, NodeProgress]:
        """How far each node is."""
        placement = self.placement
        if placement is None or self._job is None:
            return {}
        told = {node.node_id: node for node in self._job.view.nodes}
        each = {stage.node.node_id: stage.node.name for stage in placement.stages}
        return {id: told.get(id) or NodeProgress("waiting", id, name, 0, 0) for id, name in each.items()}

    @property
    def overall(self) -> JobProgress:
        """How far all of it is."""
        return (self._job.view if self._job is not None else JobSnapshot(0, "deploy", "")).progress

    def start(self, placement: Placement, previous: Placement | None, *, live: bool = False) -> None:
        """Take down what the model has deployed, then carry out the placement.

        Args:
            previous: what is deployed of the model now, to go back to.
            live: take nothing down, move the stages while the model answers.
        """
        if not self.is_active:
            self._previous = previous
        self._workbench.jobs.deploy(placement, live=live)

    def cancel(self) -> None:
        """End it; what was loaded is unloaded, what was sent stays on the nodes for the next time."""
        if self._job is not None:
            self._job.cancel()

    def retry(self) -> None:
        """The same placement again; what the nodes have received already is not sent again."""
        if self.failure is not None and not self.is_active:
            self.start(self.failure.placement, None, live=self.failure.live)

    def deploy_anew(self) -> None:
        """Take down what could not be moved, and deploy it where it was to be."""
        if self.failure is not None and not self.is_active:
            self.start(self.failure.placement, None)

    def restore_previous(self) -> None:
        """Deploy again what was taken down for the placement that failed."""
        if self.failure is not None and self.failure.previous is not None and not self.is_active:
            self.start(self.failure.previous, None)

    def dismiss(self) -> None:
        """The user has read of the failure."""
        if self.failure is not None:
            self._workbench.notices.withdraw(_key(self.failure.placement.model_name))
            self.failure = None
            self.changed.emit()

    @Slot(object)
    def _on_added(self, job: ShownJob) -> None:
        if self._job is None and _placement(job) is not None:
            self._job, self.failure = job, None
            self._workbench.notices.withdraw(_key(job.view.model))
            self.changed.emit()

    @Slot(object)
    def _on_changed(self, job: ShownJob) -> None:
        if job is self._job:
            self.changed.emit()

    @Slot(object)
    def _on_ended(self, job: ShownJob) -> None:
        if job is not self._job:
            return
        placement, previous = self.placement, self._previous if "replaced" in job.view.details else None
        self._job = self._previous = None
        if job.is_own and placement is not None:
            self._say_end(job.view, placement, previous, _is_live(job))
        self._take_next()
        self.changed.emit()
        self.ended.emit()

    def _take_next(self) -> None:
        """Show another deployment that is under way, if there is one."""
        for job in self._workbench.jobs.busy():
            self._on_added(job)

    def _say_end(self, view: JobSnapshot, placement: Placement, previous: Placement | None, live: bool) -> None:
        notices, name = self._workbench.notices, placement.model_name
        again = "Deploy the previous placement again"
        if view.status is JobStatus.DONE:
            count = len({stage.node.node_id for stage in placement.stages})
            where = f"on {placement.stages[0].node.name}" if count == 1 else f"on {count} nodes"
            action = NoticeAction("Open chat", lambda: self._workbench.navigate.emit("chat", name))
            done = f"{name} has a replica {where}" if placement.replica_of else f"{name} is deployed {where}"
            notices.toast(view.result if live else done, Level.SUCCESS, action)
        elif view.error is not None:
            self.failure = Failure(placement, view.error, previous, live)
            actions, what = [NoticeAction("Retry", self.retry)], self.failure.title
            if live:
                actions.append(NoticeAction("Take it down and deploy", self.deploy_anew))
                what += "; it answers as before"
            elif previous is not None:
                actions.append(NoticeAction(again, self.restore_previous))
                what += ", and the deployment it replaced was taken down before"
            notices.error(what, view.error, *actions, key=_key(name))
        elif live:
            notices.toast(f"Moving {name} was cancelled. It answers as before.", Level.INFO)
        else:
            actions = [] if previous is None else [NoticeAction(again, lambda: self.start(previous, None))]
            notices.toast(
                f"Deploying {name} was cancelled. What the nodes have received stays there for the next time.",
                Level.INFO,
                *actions,
            )


def _placement(job: ShownJob) -> Placement | None:
    """What a job deploys; None for any other."""
    found = getattr(job.work, "placement", None) if job.view.kind == "deploy" else None
    return found if isinstance(found, Placement) else None


def _is_live(job: ShownJob) -> bool:
    from app.jobs.works import HandOverWork  # loaded with the controller, as all works are

    return isinstance(job.work, HandOverWork)


def _key(model: str) -> str:
    return f"deploy {model}"
