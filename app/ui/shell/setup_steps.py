"""The three steps to a first answer: agents on this machine, the demo's model, the model split over the agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Slot

from app.children.work import JobProgress
from app.cluster.node_state import NodeState
from app.figures import layers, size_text
from app.progress import figures_words, phase_words
from app.ui.bridge import Call, Report, window_origin
from app.ui.shell.setup_step import CallStep, SetupStep, StepProgress
from app.ui.snapshots import DeploymentSnapshot, NodeSnapshot
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller
    from app.jobs.job import JobSnapshot
    from app.ui.jobs.shown_job import ShownJob

AGENTS = 2
MODEL = "SmolLM2-135M-Instruct"
DOWNLOAD_BYTES = 93_000_000
LICENCE = "Apache-2.0"


def usable_nodes(workbench: Workbench) -> list[NodeSnapshot]:
    """Nodes that can take layers now, those of this machine first."""
    up = [view for view in workbench.cluster.nodes.values() if view.state is NodeState.UP]
    return sorted(up, key=lambda view: (not view.is_here, view.id))


class AgentsStep(CallStep):
    """Two agents on this machine: stopped ones are started again, the rest is made."""

    title = "Start two agents"
    what = "Starting the agents"

    def is_done(self) -> bool:
        return len(usable_nodes(self.workbench)) >= AGENTS

    def result(self) -> str:
        names = [view.name for view in usable_nodes(self.workbench)]
        if len(names) > AGENTS:
            return f"{len(names)} agents are up: {', '.join(names[:AGENTS])} and others."
        return f"{' and '.join(names)} are up."

    def call(self) -> Call:
        elsewhere = [view for view in usable_nodes(self.workbench) if not view.is_here]
        keep = not self.workbench.settings.get("agents/stop_with_window")

        async def work(controller: Controller, report: Report) -> None:
            from app.first_run import take_local_agents

            await take_local_agents(
                controller, AGENTS - len(elsewhere), keep=keep, on_starting=report, origin=window_origin()
            )

        return self.workbench.bridge.call(work, "starting the agents")

    def read(self, progress: object) -> StepProgress:
        return StepProgress("Starting; they load PyTorch first")


class ModelStep(SetupStep):
    """The demo's model in the library."""

    title = "Take a small model"
    what = "Fetching the model"

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(workbench, parent)
        self._job: ShownJob | None = None

    def is_done(self) -> bool:
        return self.workbench.cluster.model(MODEL) is not None

    def result(self) -> str:
        model = self.workbench.cluster.model(MODEL)
        return "" if model is None else f"{model.num_layers} layers, {size_text(model.weight_bytes)} of weights."

    def begin(self) -> None:
        self._job = self.workbench.jobs.add_demo_model()
        self._job.changed.connect(self._on_job_changed)
        self._job.ended.connect(self._on_job_ended)

    def end(self) -> None:
        if self._job is not None:
            self._job.cancel()

    @Slot()
    def _on_job_changed(self) -> None:
        if self._job is None or self._job.is_over:
            return
        view = self._job.view
        words = "Cancelling" if view.is_ending else phase_words(view.phase)
        self.show_progress(StepProgress(words, view.done_bytes, view.total_bytes, view.seconds_left))

    @Slot(object)
    def _on_job_ended(self, view: JobSnapshot) -> None:
        self._job = None
        self.finish(succeeded=view.status == "done", error=view.error)


class SplitStep(CallStep):
    """The model's layers in two halves on two agents."""

    title = "Split it and talk"
    what = "Splitting the model"

    def __init__(
        self, workbench: Workbench, agents: AgentsStep, model: ModelStep, parent: QObject | None = None
    ) -> None:
        super().__init__(workbench, parent)
        self._agents, self._model = agents, model

    def deployment(self) -> DeploymentSnapshot | None:
        """The model where it answers now."""
        return self.workbench.cluster.deployment_of(MODEL)

    def is_done(self) -> bool:
        return self.deployment() is not None

    def result(self) -> str:
        deployment = self.deployment()
        if deployment is None:
            return ""
        nodes = self.workbench.cluster.nodes
        where = [
            f"{layers(shard.start_layer, shard.end_layer)} on {nodes[shard.node_id].name}"
            for shard in deployment.shards
            if shard.node_id in nodes
        ]
        return f"{MODEL} answers: {', '.join(where)}."

    def why_not(self) -> str:
        if not self._agents.is_done():
            return "Two agents have to run first."
        return "" if self._model.is_done() else "The model has to be there first."

    def call(self) -> Call:
        nodes = [view.id for view in usable_nodes(self.workbench)[:AGENTS]]

        async def work(controller: Controller, report: Report) -> None:
            from app.first_run import deploy_over

            await deploy_over(controller, MODEL, nodes, on_progress=report, origin=window_origin())

        return self.workbench.bridge.call(work, "splitting the model")

    def read(self, progress: object) -> StepProgress:
        if not isinstance(progress, JobProgress):
            return self.progress
        done, total = (progress.done_bytes, progress.total_bytes) if figures_words(progress) else (0, 0)
        return StepProgress(phase_words(progress.phase), done, total, progress.seconds_left)
