"""The jobs as the window has them: a mirror of the controller's desk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal, Slot

from app.jobs.job import JobSnapshot, Work
from app.registry.records import JobStatus
from app.ui.bridge import Bridge, window_origin
from app.ui.jobs.shown_job import ShownJob

if TYPE_CHECKING:
    from app.controller import Controller
    from app.serving import ServingWish
    from app.sharding.placement import Placement
    from app.ui.bridge import Report


class JobQueue(QObject):
    """What is asked for here goes to the desk; what others ask for there is shown here, too."""

    job_added = Signal(object)
    """The ShownJob, now last of `jobs`."""
    job_changed = Signal(object)
    job_removed = Signal(object)
    """The ShownJob, which is in `jobs` no more."""
    job_ended = Signal(object)
    """The ShownJob; not emitted once the queue is closed."""

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.jobs: list[ShownJob] = []
        """Oldest first."""
        self.is_closed = False
        self._bridge = bridge
        self._known: dict[int, ShownJob] = {}
        """Those that have a number, by it."""
        bridge.jobs_changed.connect(self._on_views)

    # --- what can be asked for ---

    def cut(
        self,
        model: str,
        ranges_or_count: int | str | Sequence[tuple[int, int]],
        output_dir: Path,
        *,
        register: bool = False,
    ) -> ShownJob:
        """Cut a model of the library, or in a folder, into shard folders.

        Args:
            ranges_or_count: a number of shards, text like 0-9,10-20, or layers [start, end).
            register: enter the shards in the registry.
        """
        from app.jobs.works import CutWork  # loaded with the controller, as all works are
        from app.sharding.plan import ranges_text

        if isinstance(ranges_or_count, int):
            return self._submit(CutWork(model, output_dir, num_shards=ranges_or_count, register=register))
        layers = ranges_or_count if isinstance(ranges_or_count, str) else ranges_text(ranges_or_count)
        return self._submit(CutWork(model, output_dir, layers=layers, register=register))

    def add_model(
        self, source: str, *, name: str | None = None, revision: str | None = None, dequantize: bool = False
    ) -> ShownJob:
        """Add a model from a folder, a GGUF file or a Hub id to the library."""
        from app.jobs.works import AddWork

        return self._submit(AddWork(source, name, revision, dequantize))

    def add_demo_model(self) -> ShownJob:
        """Fetch the demo's model unless the library has it."""
        from app.jobs.works import DemoWork

        return self._submit(DemoWork())

    def deploy(self, placement: Placement, *, live: bool = False) -> ShownJob:
        """Carry out a placement; what the model has deployed is taken down first, unless it is a replica of that.

        Args:
            live: its stages are moved instead, while it answers.
        """
        from app.jobs.works import DeployWork, HandOverWork

        return self._submit(HandOverWork(placement) if live else DeployWork(placement, not placement.replica_of))

    def measure(self, model: str, wish: ServingWish, nodes: Sequence[int] | None = None) -> ShownJob:
        """Measure what a model's numbers cost; the nodes are chosen where none are named."""
        from app.jobs.measuring import MeasureWork

        return self._submit(MeasureWork(model, wish, None if nodes is None else tuple(nodes)))

    def measure_links(self) -> ShownJob:
        """Measure the links between all nodes that answer."""
        from app.jobs.probing import LinksWork

        return self._submit(LinksWork())

    def busy(self) -> list[ShownJob]:
        """What runs or waits."""
        return [job for job in self.jobs if not job.is_over]

    def remove(self, job: ShownJob) -> None:
        """Forget a job that is over; one that is not stays."""
        if job.is_over and job in self.jobs:
            self.jobs.remove(job)
            self._known.pop(job.view.id, None)
            self.job_removed.emit(job)
            job.deleteLater()

    def clear_finished(self) -> None:
        for job in [job for job in self.jobs if job.is_over]:
            self.remove(job)

    def close(self) -> None:
        """Begin nothing any more, and cancel all; returns at once. What is left the controller ends when it closes."""
        self.is_closed = True
        for job in self.busy():
            job.cancel()
            if not self._bridge.is_open:  # nobody will tell how it ended
                job.finish(JobStatus.CANCELLED)

    # --- within ---

    def _submit(self, work: Work[Any]) -> ShownJob:
        job = self._new(work)
        if self.is_closed:
            job.finish(JobStatus.CANCELLED)
            return job

        async def submit(controller: Controller, report: Report) -> None:
            await controller.jobs.submit(work, window_origin())

        call = self._bridge.call(submit, work.title)
        call.failed.connect(lambda error: job.finish(JobStatus.FAILED, error))  # it could not be written down
        call.cancelled.connect(lambda: job.finish(JobStatus.CANCELLED))
        return job

    def _new(self, work: Work[Any], *, own: bool = True) -> ShownJob:
        return self._take(ShownJob(work, own, self._bridge, self._submit, self))

    def _take(self, job: ShownJob) -> ShownJob:
        self.jobs.append(job)
        job.changed.connect(self._on_changed)
        job.ended.connect(self._on_ended)
        self.job_added.emit(job)
        return job

    @Slot(object)
    def _on_views(self, views: tuple[JobSnapshot, ...]) -> None:
        for view in views:
            job = self._known.get(view.id)
            if job is None and view.work is not None and not view.status.is_over:
                job = self._known[view.id] = self._own(view) or self._new(view.work, own=False)
            if job is not None:
                job.show_view(view)

    def _own(self, view: JobSnapshot) -> ShownJob | None:
        """The job that was asked for here and has just got its number."""
        waiting = (job for job in self.jobs if not job.view.id and not job.is_over)
        return next((job for job in waiting if job.work is view.work), None)

    @Slot()
    def _on_changed(self) -> None:
        job = self.sender()
        if isinstance(job, ShownJob):
            self.job_changed.emit(job)

    @Slot(object)
    def _on_ended(self, view: JobSnapshot) -> None:
        job = self.sender()
        if isinstance(job, ShownJob) and not self.is_closed:
            self.job_ended.emit(job)
