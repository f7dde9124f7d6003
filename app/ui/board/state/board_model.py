"""The board's state: the chosen model, its draft with undo and redo, the nodes' lanes, and deploying.

Panes and scene show it and call it; it paints nothing and knows no widget. All changes of a draft go through
one undo stack, so that every drag, key and menu can be taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtGui import QUndoStack

from app.errors import BadInput, PlacementError, ShardboardError
from app.serving import Serving
from app.sharding.arrangement import Arrangement
from app.sharding.capacity import NodeCapacity
from app.sharding.placement import Placement
from app.sharding.planning.aims import AIMS, DEFAULT_AIM, check_aim
from app.sharding.prediction import Prediction
from app.ui.board.deploying import Deploying
from app.ui.board.state.drafts import DraftChange, Drafts
from app.ui.board.state.figures import NodeFigures
from app.ui.board.state.judge import Judge
from app.ui.board.state.lanes import LaneSnapshot, Selection, Verdict
from app.ui.board.state.memory import BoardMemory
from app.ui.board.state.outlook import BestSingle, BoardOutlook
from app.ui.board.state.proposals import AT_ONCE, Proposals
from app.ui.notices import Level

if TYPE_CHECKING:
    from app.controller import Controller
    from app.models.description import ModelDescription
    from app.ui.workbench import Workbench

NO_REPLICA = "Move a shard of what is deployed to a second node first."


class BoardModel(QObject):
    """What is chosen, drafted and deployed, and every change that can be made to it."""

    changed = Signal()
    """Draft, lanes or figures are others now."""
    selection_changed = Signal()
    deploying_changed = Signal()
    """Deploying began, got on or ended."""
    confirm_needed = Signal(str, object)
    """A question before requests under way are interrupted, and what to call for yes."""

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.workbench = workbench
        self.undo_stack = QUndoStack(self)
        self.selection = Selection()
        self.model_name: str | None = None
        self.deploying = Deploying(workbench, self)
        self._cluster = workbench.cluster
        self.memory = BoardMemory(self._cluster)
        self._outlook = BoardOutlook(self._cluster, self.memory)
        self.drafts = Drafts(self._cluster, self.memory, workbench.settings)
        self._proposals = Proposals(self._cluster, self.memory)
        self.aim: str = DEFAULT_AIM
        """What plans are proposed for; `aim_at` changes it."""
        self._judge = Judge(self._cluster, self.drafts, self.memory, self.deploying)
        self._lanes: tuple[LaneSnapshot, ...] | None = None
        self.figures = NodeFigures(self._refresh, self)
        self._cluster.nodes_reset.connect(self._on_nodes_reset)
        self._cluster.nodes_changed.connect(self._on_nodes_changed)
        self._cluster.models_changed.connect(self._on_lists_changed)
        self._cluster.deployments_changed.connect(self._on_lists_changed)
        self._cluster.links_changed.connect(self._on_lists_changed)
        self._cluster.comparisons_changed.connect(self._on_lists_changed)
        self.deploying.changed.connect(self._on_deploying)
        workbench.settings.changed.connect(self._on_setting)

    # --- what is asked ---

    @property
    def description(self) -> ModelDescription | None:
        """Of the chosen model; None also while the library does not list it (yet)."""
        return self._cluster.model(self.model_name) if self.model_name else None

    @property
    def arrangement(self) -> Arrangement | None:
        """The chosen model's draft."""
        return self.drafts.of(self.model_name)

    @property
    def loaded(self) -> Arrangement | None:
        """What is deployed of the chosen model."""
        return self.memory.loaded(self.model_name)

    @property
    def is_loaded(self) -> bool:
        """Whether the draft is what is deployed."""
        draft = self.arrangement
        return draft is not None and self.drafts.is_loaded(draft)

    @property
    def moves(self) -> bool:
        """Whether the draft can be carried out while the model answers: it has the stages of what is deployed on other
        nodes, or another cut for which there is room beside the one that is loaded."""
        draft, loaded = self.arrangement, self.loaded
        if draft is None or loaded is None or draft.serving != loaded.serving or self.is_loaded:
            return False
        return draft.ranges == loaded.ranges or (draft.is_placed and self._fits_beside(draft, loaded))

    @property
    def can_replicate(self) -> bool:
        """Whether the draft has the stages of what is deployed on other nodes, and no more."""
        draft, loaded = self.arrangement, self.loaded
        return self.moves and draft is not None and loaded is not None and draft.ranges == loaded.ranges

    def _fits_beside(self, draft: Arrangement, loaded: Arrangement) -> bool:
        """Weights of stages that are the same are kept once."""
        for node, capacity in self.capacities().items():
            mine = {(each.start, each.end) for each in draft.pieces if each.node_id == node}
            there = {(each.start, each.end) for each in loaded.pieces if each.node_id == node}
            sizes = draft.sizes
            needed = sum(sizes.memory(*each) for each in (*mine, *there))
            if needed - sum(sizes.weights(*each) for each in mine & there) > capacity.free_memory:
                return False
        return True

    @property
    def is_deploying(self) -> bool:
        return self.deploying.is_active

    def capacities(self) -> dict[int, NodeCapacity]:
        """What the nodes that can take shards have for the draft."""
        return self.capacities_for(self.model_name or "", self.arrangement)

    def capacities_for(self, model: str, draft: Arrangement | None) -> dict[int, NodeCapacity]:
        """The same for another model."""
        return self.memory.capacities(model, draft.serving.dtype if draft is not None else "")

    def lanes(self) -> tuple[LaneSnapshot, ...]:
        """Every node, in the registry's order."""
        if self._lanes is None:
            self._lanes = self.memory.lanes(self.model_name, self.arrangement, self.is_loaded, self.deploying.nodes)
        return self._lanes

    def lane(self, node_id: int) -> LaneSnapshot | None:
        return next((lane for lane in self.lanes() if lane.node.id == node_id), None)

    def pipeline(self) -> tuple[int | None, ...]:
        """The node of each stage in order; None for what is not placed yet."""
        draft = self.arrangement
        return draft.nodes if draft is not None else ()

    def boundaries(self) -> tuple[int, ...]:
        """The layers before which the draft is cut."""
        draft = self.arrangement
        return draft.boundaries if draft is not None else ()

    def allowed_cuts(self, boundary: int) -> tuple[int, ...]:
        """Where boundary number `boundary` may stand."""
        draft = self.arrangement
        return draft.allowed_cuts(boundary) if draft is not None and 0 <= boundary < len(draft.boundaries) else ()

    @property
    def prediction(self) -> Prediction | None:
        """Of the draft; None while a shard has no node or a node has not measured itself."""
        draft = self.arrangement
        return self._outlook.of(draft) if draft is not None else None

    @property
    def assumed(self) -> tuple[str, ...]:
        """What the prediction assumes instead of having it measured."""
        draft = self.arrangement
        return self._outlook.assumed(draft) if draft is not None else ()

    @property
    def planned(self) -> Placement | None:
        """The planner's word on the draft, as long as nobody has changed what it proposed."""
        return self._proposals.of(self.arrangement)

    @property
    def best_single(self) -> BestSingle | None:
        """None when no node can hold the model alone."""
        draft = self.arrangement
        return self._outlook.best_single(draft) if draft is not None else None

    @property
    def can_deploy(self) -> tuple[bool, str]:
        """Whether the draft can be deployed now, and why not."""
        draft = self.arrangement
        if draft is None:
            return False, "Choose a model first."
        if self.is_deploying:
            return False, f"{self.deploying.model_name} is being deployed."
        if self.is_loaded:
            return False, f"{draft.model_name} is deployed as shown."
        try:
            draft.check(self.capacities())
        except PlacementError as error:
            return False, str(error)
        return True, ""

    # --- verdicts ---

    def judge_model(self, name: str, node_id: int | None) -> Verdict:
        """What dropping a model on a node would mean; on the board for None."""
        return self._judge.model(name, node_id)

    def judge_shard(self, stage: int, node_id: int) -> Verdict:
        """What dropping a shard on a node would mean."""
        return self._judge.shard(self.arrangement, stage, node_id)

    def judge_boundary(self, boundary: int, layer: int) -> Verdict:
        """What a boundary before this layer would mean."""
        return self._judge.boundary(self.arrangement, boundary, layer)

    # --- choosing ---

    def choose_model(self, name: str | None) -> None:
        """Show a model's draft. One that the library does not have yet is shown when it comes."""
        if name == self.model_name:
            return
        self.model_name = name
        self.select(Selection(model=name))
        self._refresh()

    def select(self, selection: Selection) -> None:
        if selection != self.selection:
            self.selection = selection
            self.selection_changed.emit()

    # --- changes, each one undo step ---

    def propose(self, name: str | None = None) -> None:
        """Take the plan that is best for the nodes at hand. Raises PlacementError when nothing fits."""
        draft = self._draft(name)
        asked = self._proposals.asked(draft, self.aim)
        if len(self.memory.capacities(draft.model_name, draft.serving.dtype)) <= AT_ONCE:
            self._take_plan(draft.model_name, asked.answered())
            return
        call = self.workbench.bridge.call(lambda *_: asyncio.to_thread(asked.answered), "planning")
        call.done.connect(lambda placement: self._take_plan(draft.model_name, placement))
        call.failed.connect(lambda error: self.workbench.notices.toast(str(error), Level.WARNING))

    def aim_at(self, aim: str) -> None:
        """What plans are proposed for from now on; one that stands as it was proposed is proposed anew."""
        if aim == self.aim:
            return
        before = self.planned
        self.aim = check_aim(aim)
        if before is not None and not self.is_deploying:
            self.propose()
        self.changed.emit()

    def place_model(self, name: str, node_id: int) -> None:
        """The whole model onto one node."""
        draft = self._draft(name)
        self._checked(f"Place on {self._node_name(node_id)}", draft, draft.whole_on(node_id))

    def move_shard(self, stage: int, node_id: int) -> None:
        draft = self._draft()
        self._checked(f"Move shard {stage + 1} to {self._node_name(node_id)}", draft, draft.moved(stage, node_id))

    def swap_shards(self, one: int, other: int) -> None:
        draft = self._draft()
        self._checked(f"Swap shards {one + 1} and {other + 1}", draft, draft.swapped(one, other))

    def move_boundary(self, boundary: int, layer: int) -> None:
        draft = self._draft()
        self._checked(f"Cut before layer {layer}", draft, draft.with_boundary(boundary, layer))

    def split_stage(self, stage: int, layer: int | None = None) -> None:
        """Cut a shard in two, in its middle when no layer is given."""
        draft = self._draft()
        made = draft.split(stage, layer if layer is not None else draft.middle_of(stage))
        self._checked(f"Split shard {stage + 1}", draft, made)

    def merge_stages(self, boundary: int) -> None:
        """The shards on both sides of a boundary become one."""
        draft = self._draft()
        self._checked(f"Merge shards {boundary + 1} and {boundary + 2}", draft, draft.merged(boundary))

    def set_shards(self, count: int) -> None:
        """Cut the model anew into so many shards."""
        draft = self._draft()
        self._take(f"Cut into {count} shards", draft, draft.with_shards(count, self.capacities()))

    def unplace(self, stage: int) -> None:
        draft = self._draft()
        self._take(f"Take shard {stage + 1} off its node", draft, draft.moved(stage, None))

    def empty_node(self, node_id: int) -> None:
        """Take all of the draft's shards off a node."""
        draft = self._draft()
        nodes = [None if node == node_id else node for node in draft.nodes]
        self._take(f"Take the shards off {self._node_name(node_id)}", draft, draft.on_nodes(nodes))

    def clear(self) -> None:
        """Take all shards off their nodes."""
        draft = self._draft()
        self._take("Clear the board", draft, draft.cleared())

    def set_serving(self, serving: Serving) -> None:
        """Another dtype, context or number of KV tokens; what does not fit any more is shown as missing."""
        draft = self._draft()
        self._take("Change the settings", draft, draft.serving_as(serving))

    # --- doing ---

    def deploy(self) -> None:
        """Carry out the draft. Raises PlacementError when it cannot be."""
        allowed, why = self.can_deploy
        if not allowed:
            raise PlacementError(why)
        draft = self._draft()
        placement = draft.to_placement(self.capacities())
        previous = self._previous(draft.model_name)
        if previous is None:
            self.deploying.start(placement, None)
            return
        if self.moves:
            self.deploying.start(placement, previous, live=True)
            return
        self._ask_first(
            draft.model_name,
            "Deploying the new placement ends {requests}. The deployment of now is taken down first.",
            lambda: self._start(placement, previous),
        )

    def replicate(self) -> None:
        """Load what is deployed once more, where the draft has it: both share the requests, and one takes over when the
        other is lost. The draft becomes what is deployed again. Raises PlacementError when it cannot be."""
        draft, loaded = self._draft(), self.loaded
        if loaded is None or not self.can_replicate or not draft.is_placed:
            raise PlacementError(NO_REPLICA)
        name, nodes = draft.model_name, [node for node in draft.nodes if node is not None]

        async def work(controller: Controller, report: object) -> Placement:
            return await controller.plan(name, nodes=nodes, replica=True)

        def planned(placement: Placement) -> None:
            if not self.is_deploying:
                self._take("Add a replica", draft, loaded)
                self.deploying.start(placement, None)

        call = self.workbench.bridge.call(work, f"planning a replica of {name}")
        call.done.connect(planned)
        call.failed.connect(lambda error: self.workbench.notices.error(f"{name} could not get a replica", error))

    def cancel_deploy(self) -> None:
        self.deploying.cancel()

    def undeploy(self) -> None:
        """Take down the chosen model's deployment. Raises BadInput when there is none."""
        name = self.model_name
        if name is None or self._cluster.deployment_of(name) is None:
            raise BadInput("There is no deployment to take down.")
        if self.is_deploying and self.deploying.model_name == name:
            raise BadInput(f"{name} is being deployed.", "Cancel that first.")
        self._ask_first(name, "Taking the deployment down ends {requests}.", lambda: self._undeploy(name))

    # --- state ---

    def save(self) -> dict[str, Any]:
        """Chosen model, aim and drafts, as JSON."""
        return {"model": self.model_name, "aim": self.aim, "drafts": self.drafts.save()}

    def restore(self, state: dict[str, Any]) -> None:
        drafts, model, aim = state.get("drafts"), state.get("model"), state.get("aim")
        self.aim = aim if aim in AIMS else DEFAULT_AIM
        self.drafts.restore(drafts if isinstance(drafts, dict) else {})
        self.choose_model(model if isinstance(model, str) else None)
        self._refresh()

    # --- within ---

    def _take_plan(self, name: str, placement: Placement) -> None:
        draft = self._draft(name)
        found = Arrangement.of_placement(draft.description, placement)
        self._proposals.keep(found, placement)
        self._take("Propose a plan", draft, found)

    def _draft(self, name: str | None = None) -> Arrangement:
        wanted = name or self.model_name
        draft = self.drafts.of(wanted)
        if draft is None:
            raise BadInput(
                f"'{wanted}' is not in the library." if wanted else "No model is chosen.", "Choose one on the left."
            )
        if self.deploying.model_name == draft.model_name:
            raise PlacementError(f"{draft.model_name} is being deployed.", "Wait for it, or cancel it first.")
        return draft

    def _checked(self, text: str, before: Arrangement, after: Arrangement) -> None:
        """Refuse what a node cannot take; what was too large before may stay so."""
        verdict = self._judge.step(before, after)
        if not verdict.allowed:
            raise PlacementError(f"{text}: {verdict.text}.", verdict.advice)
        self._take(text, before, after)

    def _take(self, text: str, before: Arrangement, after: Arrangement) -> None:
        if self.model_name != after.model_name:
            self.choose_model(after.model_name)
        if after != before:
            self.undo_stack.push(DraftChange(self.show, text, before, after))

    def show(self, draft: Arrangement) -> None:
        """Called by an undo step: this is the draft now."""
        self.drafts.put(draft)
        if self.model_name != draft.model_name:
            self.choose_model(draft.model_name)
        selected = self.selection.stage
        if selected is not None and selected >= len(draft.pieces):
            self.select(Selection(model=draft.model_name))
        self._refresh()

    def _node_name(self, node_id: int) -> str:
        view = self._cluster.nodes.get(node_id)
        return view.name if view is not None else f"node {node_id}"

    def _previous(self, name: str) -> Placement | None:
        """What is deployed of a model, so that it can be deployed again."""
        loaded = self.memory.loaded(name)
        if loaded is None:
            return None
        known = self.memory.capacities(name, loaded.serving.dtype)
        try:
            return loaded.to_placement(known)
        except ShardboardError:  # its nodes are not what they were: there is nothing to go back to
            return None

    def _ask_first(self, name: str, question: str, proceed: Callable[[], None]) -> None:
        """Go on at once when nobody is waiting for an answer of the model, else after a yes."""

        async def count(controller: Controller, report: object) -> int:
            return sum(run.record.model_name == name for run in controller.inference.running())

        def on_counted(running: int) -> None:
            if not running:
                proceed()
                return
            requests = "the answer that is being written" if running == 1 else f"{running} answers being written"
            self.confirm_needed.emit(question.format(requests=requests), proceed)

        self.workbench.bridge.call(count, "looking for requests under way").done.connect(on_counted)

    def _start(self, placement: Placement, previous: Placement | None) -> None:
        if not self.is_deploying:
            self.deploying.start(placement, previous)

    def _undeploy(self, name: str) -> None:
        async def work(controller: Controller, report: object) -> None:
            await controller.undeploy(name)

        call = self.workbench.bridge.call(work, f"taking down {name}")
        call.done.connect(lambda _: self.workbench.notices.toast(f"{name} is not deployed any more."))
        call.failed.connect(lambda error: self.workbench.notices.error(f"{name} could not be taken down", error))

    @Slot(str)
    def _on_setting(self, key: str) -> None:
        if key.startswith("board/"):
            self.drafts.take_preferences()
            self._refresh()

    @Slot()
    def _on_nodes_reset(self) -> None:
        self.memory.forget_nodes()
        self.drafts.forget_nodes()
        if self.selection.node_id is not None and self.selection.node_id not in self._cluster.nodes:
            self.select(Selection(model=self.model_name))
        self._refresh()

    @Slot(object)
    def _on_nodes_changed(self, nodes: object) -> None:
        self._lanes = None
        self.memory.forget_nodes()
        self.figures.have_changed()

    @Slot()
    def _on_lists_changed(self) -> None:
        self.memory.forget()
        self.drafts.follow()
        if self._cluster.is_loaded and self.model_name is not None and self.description is None:
            self.choose_model(None)
        self._refresh()

    @Slot()
    def _on_deploying(self) -> None:
        self._lanes = None
        self.deploying_changed.emit()
        self.changed.emit()

    @Slot()
    def _refresh(self) -> None:
        self._lanes = None
        self.memory.forget_nodes()
        self.changed.emit()
