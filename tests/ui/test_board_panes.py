"""Plan bar, inspector and deployment panel: what they say of a draft, a node, a shard, a model, a failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace as altered
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from app.children.work import NodeProgress
from app.cluster.node_state import Heard
from app.errors import NodeError
from app.inference.events import StepPassed
from app.jobs.measuring import MeasureWork
from app.registry.records import JobStatus, MeasurementRecord
from app.serving import Serving, ServingWish
from app.sharding.planning.aims import FASTEST, FITS
from app.ui.board.board_commands import BoardCommands
from app.ui.board.deploying import Failure
from app.ui.board.panes.deploy_panel import DeployPanel
from app.ui.board.panes.inspector import Inspector
from app.ui.board.panes.inspector_pages import cuts_text
from app.ui.board.panes.plan_bar import PlanBar
from app.ui.board.state.board_model import BoardModel
from app.ui.board.state.lanes import Selection
from app.ui.bridge import SeenStep
from app.ui.lists import Lists
from app.ui.workbench import Workbench
from tests.ui.simulated import deployment, fill, measured, model, slower
from worker_agent.wire.messages import StageTime

SMALL, LARGE = model("small"), model("large", layers=40)


@pytest.fixture
def holder(qtbot: QtBot) -> QWidget:
    made = QWidget()
    qtbot.addWidget(made)
    made.resize(700, 600)
    made.show()
    return made


@pytest.fixture
def board(quiet_workbench: Workbench) -> BoardModel:
    fill(quiet_workbench.cluster, models=(SMALL, LARGE))
    made = BoardModel(quiet_workbench, quiet_workbench)
    made.aim_at(FITS)  # which shares out what one node could hold
    made.choose_model("small")
    return made


@pytest.fixture
def commands(board: BoardModel, holder: QWidget) -> BoardCommands:
    return BoardCommands(board, holder)


@pytest.fixture
def bar(board: BoardModel, commands: BoardCommands, holder: QWidget) -> Iterator[PlanBar]:
    made = PlanBar(board, commands, holder)
    made.show()
    yield made


@pytest.fixture
def inspector(board: BoardModel, commands: BoardCommands, holder: QWidget) -> Iterator[Inspector]:
    made = Inspector(board, commands, holder)
    made.show()
    yield made


def test_the_plan_bar_says_what_is_to_be_done_first(bar: PlanBar, board: BoardModel) -> None:
    assert bar.name.text() == "small" and bar.state.text() == "Not deployed"
    assert bar.outlook.text() == "Needs 1.5 GB. Drag the model onto the board, or let a plan be proposed."
    assert bar.single.text() == "node-1 alone could hold its 1.5 GB"
    assert not bar.deploy.isEnabled() and "No shard has a node yet" in bar.deploy.toolTip()
    board.choose_model("large")
    assert bar.single.text() == "No single node can hold its 4.5 GB"
    board.choose_model(None)
    assert bar.name.text() == "No model chosen" and bar.serving.isHidden()


def test_memory_and_speed_stand_beside_those_of_the_best_single_node(bar: PlanBar, board: BoardModel) -> None:
    measured(board.workbench.cluster)
    bar.propose.click()
    assert bar.outlook.text().startswith("1.5 GB over 3 nodes · about 1")
    assert "tokens/s, first token in " in bar.outlook.text() and "corrected" not in bar.outlook.text()
    assert bar.single.text().startswith("Best single node: node-1, 1.5 GB, about 1")
    assert "Shard 1: 480 MB of weights, " in bar.outlook.toolTip()
    assert "Between the nodes: " in bar.outlook.toolTip()


def test_what_earlier_runs_took_corrects_the_speed_and_is_said(bar: PlanBar, board: BoardModel, qtbot: QtBot) -> None:
    measured(board.workbench.cluster)
    bar.propose.click()
    before = board.prediction
    runs = slower(1, id=2, following=2), slower(1, id=1, following=2)
    board.workbench.cluster.take_lists(Lists(comparisons=runs))
    qtbot.waitUntil(lambda: "corrected" in bar.outlook.text())
    assert before is not None and board.prediction is not None
    assert board.prediction.tokens_per_second < before.tokens_per_second
    percent = round(100 * (before.tokens_per_second / board.prediction.tokens_per_second - 1))
    assert bar.outlook.text().endswith(f" · corrected by {percent} % after 2 runs")
    assert f"Corrected by {percent} % after 2 runs, in which a token took longer" in bar.outlook.toolTip()


def test_an_aim_is_chosen_its_plan_explained_and_both_are_kept(bar: PlanBar, board: BoardModel) -> None:
    aim = bar.serving.aim
    assert aim.currentData() == FITS and aim.currentText() == "Fits at all" and bar.plan.isHidden()
    board.propose()
    assert board.pipeline() == (1, 2, 3) and bar.plan.text().startswith("Fewer machines are faster for one answer")
    assert "node-2 (2) takes layers " in bar.plan.toolTip()
    aim.setCurrentIndex(aim.findData(FASTEST))
    aim.activated.emit(aim.currentIndex())
    assert len(board.pipeline()) == 1, "a plan that nobody has changed is made anew"
    assert "node-2 (2) is left out: " in bar.plan.toolTip() and bar.plan.text().startswith(
        "Fewer machines are faster: "
    )
    assert "tokens/s" in bar.plan.toolTip()
    state = board.save()
    board.undo_stack.undo()
    assert len(board.pipeline()) == 3
    board.move_boundary(0, board.boundaries()[0] - 1)
    assert bar.plan.isHidden(), "by hand it is nobody's plan"
    by_hand = board.pipeline()
    board.aim_at(FITS)
    assert board.pipeline() == by_hand, "what is by hand stays"
    board.restore(state)
    assert board.aim == FASTEST and aim.currentData() == FASTEST


def test_what_stands_in_the_way_is_a_warning(bar: PlanBar, board: BoardModel) -> None:
    board.propose()
    assert bar.deploy.isEnabled() and bar.warning.text() == ""
    board.unplace(1)
    assert bar.warning.text() == "Shard 2 has no node yet." and not bar.warning.isHidden()
    board.undo_stack.undo()
    board.set_serving(Serving("float32", 4096, 4_000_000))
    assert "node-1 lacks " in bar.warning.text() and not bar.deploy.isEnabled()


def test_keys_and_values_in_8_bits_are_chosen_reckoned_with_and_undone(bar: PlanBar, board: BoardModel) -> None:
    board.propose()
    assert board.arrangement is not None and bar.serving.kv_dtype.currentText() == "computed"
    before = board.arrangement.kv(0)
    bar.serving.kv_dtype.setCurrentText("int8")
    bar.serving.kv_dtype.activated.emit(1)
    assert board.arrangement.serving.kv_dtype == "int8" and board.arrangement.kv(0) < before / 3
    board.undo_stack.undo()
    assert bar.serving.kv_dtype.currentText() == "computed" and board.arrangement.kv(0) == before


def test_the_settings_are_steps_that_can_be_undone(bar: PlanBar, board: BoardModel) -> None:
    fields = bar.serving
    assert (fields.dtype.currentText(), fields.context.value(), fields.kv_tokens.value()) == ("float32", 4096, 8192)
    assert fields.context.maximum() == SMALL.max_context
    fields.kv_tokens.setValue(20_000)
    fields.context.setValue(1024)
    fields.dtype.setCurrentText("bfloat16")
    fields.dtype.activated.emit(1)
    assert board.arrangement is not None and board.arrangement.serving == Serving("bfloat16", 1024, 20_000)
    board.undo_stack.undo()
    assert fields.dtype.currentText() == "float32"


def test_how_answers_go_on_after_a_loss_is_chosen_on_the_board(bar: PlanBar, board: BoardModel) -> None:
    assert board.arrangement is not None and bar.serving.recovery.currentText() == "fast"
    before = board.arrangement.sizes.memory(0, 1)
    bar.serving.recovery.setCurrentText("exact")
    bar.serving.recovery.activated.emit(1)
    assert board.arrangement.serving.recovery == "exact"
    assert board.arrangement.sizes.memory(0, 1) > before, "the journal takes memory"
    board.undo_stack.undo()
    assert bar.serving.recovery.currentText() == "fast"


def test_room_for_less_than_the_context_is_not_set_aside(bar: PlanBar, board: BoardModel) -> None:
    bar.serving.kv_tokens.setValue(100)
    assert board.arrangement is not None and board.arrangement.serving.kv_tokens == 4096
    assert bar.serving.kv_tokens.value() == 4096


def test_a_deployed_draft_can_be_taken_down_and_a_changed_one_deployed(bar: PlanBar, board: BoardModel) -> None:
    board.workbench.cluster.take_lists(Lists(deployments=(deployment("a", SMALL, [(1, 0, 6), (2, 6, 12)]),)))
    assert bar.state.text() == "Deployed as shown"
    assert bar.deploy.isHidden() and bar.replicate.isHidden() and not bar.undeploy.isHidden()
    board.move_shard(1, 3)
    assert bar.state.text() == "Stages can move while it answers" and bar.deploy.text() == "Move"
    assert not bar.replicate.isHidden() and bar.replicate.isEnabled()
    board.move_boundary(0, 5)
    assert bar.state.text() == "Can be cut anew while it answers" and bar.deploy.text() == "Move"
    assert bar.replicate.isHidden(), "a replica has the same cut"
    board.set_serving(Serving("bfloat16", 1024, 8192))
    assert bar.state.text() == "Differs from what is deployed" and bar.deploy.text() == "Deploy"
    assert not bar.deploy.isHidden() and bar.deploy.isEnabled()


def test_a_nodes_page_adds_up(inspector: Inspector, board: BoardModel) -> None:
    board.workbench.cluster.take_lists(Lists(deployments=(deployment("a", LARGE, [(2, 0, 20), (1, 20, 40)]),)))
    board.propose()
    board.select(Selection(node_id=2))
    page, stage = inspector.node, board.pipeline().index(2)
    assert inspector.pages.currentWidget() is page and page.title.text() == "node-2"
    assert page.subtitle.text() == "Made-up CPU 3000"
    assert page.memory.value("Others") == "2.1 GB" and page.memory.value("In all") == "4 GB"
    assert page.stages.value("large") == "layers 0–19, 2.1 GB"
    assert page.stages.value(f"Shard {stage + 1}").endswith(", not loaded")
    page.empty.click()
    assert board.pipeline()[stage] is None
    page.place.click()
    assert board.pipeline() == (2,)


def test_a_node_that_is_away_says_why(inspector: Inspector, board: BoardModel) -> None:

    board.select(Selection(node_id=2))
    board.workbench.cluster.take_heard(2, Heard(False, reason="no answer for 3 s"))
    board.changed.emit()
    assert inspector.node.subtitle.text() == "Made-up CPU 3000\nIs down: no answer for 3 s"
    assert not inspector.node.place.isEnabled()


def test_a_shards_page_says_what_it_holds(inspector: Inspector, board: BoardModel) -> None:
    board.propose()
    board.select(Selection(1, 0, "small"))
    page = inspector.stage
    assert page.title.text() == "Shard 1 of 3"
    assert page.facts.value("Layers") == "0–3 (4 of 12)"
    assert page.facts.value("Also holds") == "embedding" and page.facts.value("Node") == "node-1"
    assert page.memory.value("Weights") == "480 MB in float32"
    board.unplace(0)
    assert page.facts.value("Node") == "not placed yet"
    board.set_shards(1)
    board.select(Selection(None, 0, "small"))
    assert page.facts.value("Also holds") == "embedding, norm and head"


def test_a_models_page_says_where_it_may_be_cut_and_why_not_elsewhere(inspector: Inspector, board: BoardModel) -> None:
    assert inspector.pages.currentWidget() is inspector.model
    assert inspector.model.facts.value("Layers") == "12"
    assert inspector.model.cuts.value("Allowed") == "between any two layers"


def test_a_models_page_tells_what_was_found_out_when_it_was_added(inspector: Inspector, board: BoardModel) -> None:
    with pytest.raises(KeyError):
        inspector.model.source.value("Note")
    noted = altered(SMALL, name="noted", notes=("It has two heads.", "One is used."))
    fill(board.workbench.cluster, models=(noted,))
    inspector.model.show_model("noted")
    assert inspector.model.source.value("Note") == "It has two heads. One is used."


def test_a_models_page_tells_what_its_numbers_cost_and_has_it_measured(
    inspector: Inspector, board: BoardModel, commands: BoardCommands
) -> None:
    page = inspector.model
    assert page.measured.value("Not known") == "it was not measured yet"
    at = datetime(2026, 11, 28, 12, tzinfo=UTC)
    record = MeasurementRecord(
        1, 1, Serving("float32", 600, 2048, "int4"), ("alpha", "beta"), "plain-english-1", 2191, 18.42, "float32",
        18.27, 512, 498, "", at,
    )  # fmt: skip
    board.workbench.cluster.take_lists(Lists(measurements={"small": (record,)}))
    told = page.measured.value("float32, weights in int4")
    assert told.startswith("perplexity 18.42, 0.82 % above that of float32 (18.27); 97.3 % of 512 greedy tokens")
    assert told.endswith("(2026-11-28, 2,191 tokens of plain-english-1, on alpha and beta)")
    board.propose()
    board.set_serving(Serving("bfloat16", 1024, 4096, "int8", "int8"))
    commands.measure.trigger()
    [job] = board.workbench.jobs.jobs
    assert job.work == MeasureWork("small", ServingWish("bfloat16", quantize="int8", kv_dtype="int8"), nodes=(1, 2, 3))
    board.unplace(1)
    commands.measure.trigger()
    assert board.workbench.jobs.jobs[-1].work.nodes is None, "where a shard has no node, nodes are chosen"
    mute = altered(SMALL, name="mute", has_tokenizer=False)
    fill(board.workbench.cluster, models=(SMALL, mute))
    board.choose_model("mute")
    assert not commands.measure.isEnabled() and "no tokenizer" in commands.measure.statusTip()


def test_a_models_page_tells_what_its_own_parameters_ask_for_in_vain(
    qtbot: QtBot, workbench: Workbench, holder: QWidget, tmp_path: Path
) -> None:
    (tmp_path / "generation_config.json").write_text('{"num_beams": 4}')
    fill(workbench.cluster, models=(altered(SMALL, folder=str(tmp_path), notes=("It has two heads.",)),))
    board = BoardModel(workbench, workbench)
    board.choose_model("small")
    inspector = Inspector(board, BoardCommands(board, holder), holder)

    def told() -> bool:
        note = inspector.model.source.value("Note")
        return note.startswith("It has two heads. num_beams 4 is not applied")

    qtbot.waitUntil(told, timeout=10_000)


def test_places_to_cut_in_words() -> None:
    assert cuts_text(altered(SMALL, cuts=())) == "nowhere"
    assert cuts_text(altered(SMALL, cuts=(2, 4, 6, 8))) == "before every 2 layers, from layer 2 to 8"
    assert cuts_text(altered(SMALL, cuts=(2, 5, 6))) == "before layers 2, 5, 6"


def test_deploying_shows_how_far_it_is(board: BoardModel, holder: QWidget) -> None:
    panel = DeployPanel(board, holder)
    assert panel.isHidden()
    board.propose()
    board.deploying.start(board.arrangement.to_placement(board.capacities()), None)  # type: ignore[union-attr]
    assert not panel.isHidden() and panel.head.text() == "Deploying small"
    (job,) = board.workbench.jobs.jobs
    sending = (
        NodeProgress("sending", 1, "node-1", 100_000_000, 400_000_000, 50e6, 60_000_000),
        NodeProgress("sending", 2, "node-2", 300_000_000, 500_000_000, 80e6),
    )
    running = replace(
        job.view, id=1, status=JobStatus.RUNNING, phase="sending", done_bytes=400_000_000, total_bytes=900_000_000,
        bytes_per_second=130e6, seconds_left=6.0, nodes=sending,
    )  # fmt: skip
    job.show_view(running)
    assert panel.text.text() == "Sending 400 of 900 MB (60 MB were there), 130 MB/s, 6 s left"
    assert panel.bar.value() / panel.bar.maximum() == pytest.approx(4 / 9, abs=0.01)
    progress = board.lanes()[0].progress
    assert progress is not None and (progress.already_bytes, progress.done_bytes) == (60_000_000, 100_000_000)
    assert board.lanes()[2].progress is not None, "the third waits"
    assert not board.judge_shard(0, 2).allowed, "a draft stays while it is being deployed"
    job.show_view(replace(running, phase="linking", done_bytes=900_000_000))
    assert panel.bar.value() == panel.bar.maximum(), "all bytes are where they belong while the nodes are linked"
    panel.cancel.click()
    assert panel.text.text() == "Cancelling…" and not panel.cancel.isEnabled()


def test_a_failure_says_why_and_what_was_lost_with_it(board: BoardModel, holder: QWidget) -> None:
    panel = DeployPanel(board, holder)
    board.propose()
    before = board.arrangement.to_placement(board.capacities())  # type: ignore[union-attr]
    board.move_shard(0, 2)
    placement = board.arrangement.to_placement(board.capacities())  # type: ignore[union-attr]
    board.deploying.start(placement, before)
    job = board.workbench.jobs.jobs[-1]
    error = NodeError("node-2 has no disk space left.", "Free some there.", kind="disk", node="node-2")
    failed = {"id": 1, "status": JobStatus.FAILED, "error": error, "details": {"replaced": ["d0"]}}
    job.show_view(replace(job.view, **failed))
    assert board.deploying.failure == Failure(placement, error, before)
    assert panel.reason.text() == (
        "node-2 has no disk space left. The deployment it replaced was taken down before.\nFree some there."
    )
    assert [panel.retry.isHidden(), panel.previous.isHidden()] == [False, False]
    (banner,) = board.workbench.notices.banners
    assert [action.text for action in banner.actions] == ["Retry", "Deploy the previous placement again"]
    panel.previous.click()
    assert board.deploying.placement == before and board.workbench.notices.banners == []


def test_a_move_that_fails_says_that_it_answers_as_before(board: BoardModel, holder: QWidget) -> None:
    panel = DeployPanel(board, holder)
    board.propose()
    placement = board.arrangement.to_placement(board.capacities())  # type: ignore[union-attr]
    board.deploying.start(placement, placement, live=True)
    job = board.workbench.jobs.jobs[-1]
    assert panel.head.text() == f"Moving {placement.model_name}"
    error = NodeError("node-2 has no memory left.", "Free some there.", kind="memory", node="node-2")
    job.show_view(replace(job.view, id=1, status=JobStatus.FAILED, error=error))
    assert panel.head.text() == f"{placement.model_name} could not be moved"
    assert panel.reason.text() == "node-2 has no memory left. It answers as before.\nFree some there."
    assert [panel.retry.isHidden(), panel.previous.isHidden(), panel.anew.isHidden()] == [False, True, False]
    panel.retry.click()
    assert board.deploying.is_live
    job = board.workbench.jobs.jobs[-1]
    job.show_view(replace(job.view, id=2, status=JobStatus.FAILED, error=error))
    panel.anew.click()
    assert board.deploying.is_active and not board.deploying.is_live


def test_a_deployment_under_load_says_why_it_is_no_faster(
    inspector: Inspector, board: BoardModel, qtbot: QtBot
) -> None:
    cluster, bridge = board.workbench.cluster, board.workbench.bridge
    load = inspector.load
    assert load.isHidden()
    cluster.take_lists(Lists(deployments=(deployment("d1", SMALL, [(1, 0, 6), (2, 6, 12)]),)))
    step = StepPassed("d1", 1, 0, (StageTime(0, 0, 9_000), StageTime(1, 0, 2_000)))
    other = StepPassed("d2", 1, 0, (StageTime(0, 5_000, 0),))
    # They arrive in one batch, as they do under load: what counts is when the controller saw them.
    bridge.seen_steps.emit(tuple(SeenStep(12_000 * number, each) for number in range(20) for each in (step, other)))
    bridge.steps.emit((step,) * 20)
    load.show_load()
    assert not load.isHidden() and load.heading.text().startswith("Under load: ")
    assert "node-1" in load.sentence.text() and "75 %" in load.sentence.text()
    board.choose_model("large")
    assert load.isHidden()
