"""Why the chosen model's deployment is no faster, as one sentence, while it is under load."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QFrame, QLabel, QWidget

from app.figures import token_rate
from app.runs.bottleneck import Bottleneck, LiveStep, explain_live
from app.runs.trace import NodeFacts, Plan, StagePlan
from app.sharding.plan import stage_memory
from app.ui import make
from app.ui.icons import mark
from app.ui.theme import SPACING

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel
    from app.ui.bridge import SeenStep
    from app.ui.cluster import Cluster
    from app.ui.snapshots import DeploymentSnapshot

STEPS = 200
"""So many of the last steps are looked at."""
EVERY_MILLISECONDS = 1000
IDLE_SECONDS = 3.0
"""After the last step the card goes."""


class LoadCard(QFrame):
    """Hidden while nothing passes through the deployment of the board's model."""

    def __init__(self, board: BoardModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "sunken")
        self._board = board
        self._cluster = board.workbench.cluster
        self._theme = board.workbench.theme
        self._deployment = ""
        self._steps: deque[LiveStep] = deque(maxlen=STEPS)
        self._plan: Plan | None = None
        self.heading = make.label("", "heading")
        self.sentence = make.label(wraps=True, is_plain=True, name="Why it is no faster")
        self._mark = QLabel()
        head = make.row(self._mark, (self.heading, 1))
        make.column(
            head, self.sentence, within=self, margins=(SPACING + 4, SPACING, SPACING + 4, SPACING), spacing=SPACING // 2
        )
        self._refresh = make.timer(self, self.show_load, EVERY_MILLISECONDS, once=False)
        self._gone = make.timer(self, self._on_idle, round(IDLE_SECONDS * 1000))
        board.workbench.bridge.seen_steps.connect(self.take_steps)
        board.changed.connect(self._on_board)
        self._theme.changed.connect(self._recolour)
        self._recolour()
        self.hide()

    @Slot(object)
    def take_steps(self, steps: Iterable[SeenStep]) -> None:
        """What has passed through all pipelines since the last time."""
        found = [LiveStep.of(seen.step, seen.at_us) for seen in steps if seen.step.deployment == self._deployment]
        if not found:
            return
        self._steps.extend(found)
        self._gone.start()
        if not self._refresh.isActive():
            self._refresh.start()

    @Slot()
    def _on_board(self) -> None:
        """Another model, or another deployment of it."""
        name = self._board.model_name
        view = self._cluster.deployment_of(name) if name is not None else None
        deployment = view.record.id if view is not None else ""
        if deployment != self._deployment:
            self._deployment = deployment
            self._plan = plan_of(self._cluster, view) if view is not None else None
            self._steps.clear()
            self._on_idle()

    @Slot()
    def show_load(self) -> None:
        """Say what the last steps tell."""
        found = self.explained()
        if found.kind == "none":
            return
        self.heading.setText(f"Under load: {token_rate(self._cluster.tokens_per_second(self._deployment))}")
        self.sentence.setText(found.sentence)
        self.setAccessibleName(self.heading.text())
        self.show()

    def explained(self) -> Bottleneck:
        nodes = tuple(
            NodeFacts(node_id=view.id, name=view.name, address=f"tcp://{view.record.ip_address}:{view.record.port}")
            for view in self._cluster.nodes.values()
        )
        return explain_live(tuple(self._steps), self._plan, nodes)

    @Slot()
    def _on_idle(self) -> None:
        self._refresh.stop()
        self._gone.stop()
        self._steps.clear()
        self.hide()

    @Slot()
    def _recolour(self) -> None:
        self._mark.setPixmap(mark("gauge", self._theme.colors.accent))


def plan_of(cluster: Cluster, view: DeploymentSnapshot) -> Plan:
    """A deployment as the explanation wants it: which layers are where, and how much they weigh."""
    record = view.record
    description = cluster.model(record.model_name)
    weights = stage_memory(description, record.serving) if description is not None else None
    stages = (
        StagePlan(
            stage=number,
            node_id=shard.node_id or 0,
            node=cluster.nodes[shard.node_id].name if shard.node_id in cluster.nodes else "",
            start=shard.start_layer,
            end=shard.end_layer,
            weight_bytes=weights(shard.start_layer, shard.end_layer) if weights is not None else 0,
        )
        for number, shard in enumerate(view.shards)
    )
    return Plan.of(record, stages)
