"""The board's state: drafts, undo, verdicts, other deployments' memory, nodes that come and go, what is remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pytestqt.qtbot import QtBot

from app.cluster.node_state import Heard
from app.errors import BadInput, PlacementError
from app.serving import Serving
from app.sharding.planning.aims import FASTEST, FITS
from app.ui.board.state.board_model import BoardModel
from app.ui.board.state.lanes import BlockKind, Selection
from app.ui.lists import Lists
from app.ui.workbench import Workbench
from tests.ui import simulated
from tests.ui.simulated import MB, deployment, fill, model

SMALL = model("small", layers=12)
LARGE = model("large", layers=40)


@pytest.fixture
def board(quiet_workbench: Workbench) -> BoardModel:
    """Three nodes of 4 GB; small takes 1.5 GB with its KV, large 4.5 GB."""
    fill(quiet_workbench.cluster, models=(SMALL, LARGE))
    made = BoardModel(quiet_workbench, quiet_workbench)
    made.aim_at(FITS)  # which shares out what one node could hold
    made.choose_model("small")
    return made


def test_a_model_without_a_deployment_begins_unplaced(board: BoardModel) -> None:
    assert board.pipeline() == (None,)
    assert board.can_deploy == (
        False,
        "No shard has a node yet. Drag the shards onto nodes, or let a plan be proposed.",
    )
    assert all(not lane.blocks and lane.free == lane.budget == 4000 * MB for lane in board.lanes())


def test_preferences_decide_how_a_plan_begins_and_leave_one_that_was_placed(board: BoardModel) -> None:
    settings = board.workbench.settings
    board.choose_model("large")
    board.propose()
    placed = board.arrangement
    board.choose_model("small")
    settings.set("board/dtype", "bfloat16")
    settings.set("board/context", 2048)
    assert board.arrangement is not None and board.arrangement.serving == Serving("bfloat16", 2048, 8192)
    board.choose_model("large")
    assert placed is not None and board.arrangement == placed


def test_a_proposal_uses_the_nodes_at_hand_and_can_be_undone(board: BoardModel, qtbot: QtBot) -> None:
    with qtbot.waitSignal(board.changed):
        board.propose()
    assert board.pipeline() == (1, 2, 3) and board.can_deploy == (True, "")
    assert [lane.blocks[0].kind for lane in board.lanes()] == [BlockKind.PROPOSED] * 3
    board.undo_stack.undo()
    assert board.pipeline() == (None,)
    board.undo_stack.redo()
    assert board.pipeline() == (1, 2, 3)


def test_a_proposal_heeds_what_earlier_runs_took_as_plans_from_elsewhere_do(board: BoardModel) -> None:
    cluster = board.workbench.cluster
    simulated.measured(cluster)
    board.aim_at(FASTEST)
    board.propose()
    assert board.pipeline() == (1,)
    runs = (simulated.slower(1, id=3), simulated.slower(2, id=2, times=1), simulated.slower(3, id=1, times=2))
    cluster.take_lists(Lists(comparisons=runs))
    board.propose()
    assert board.pipeline() == (2,)


def test_every_change_is_one_step_and_comes_back(board: BoardModel) -> None:
    board.propose()
    states = [board.arrangement]
    for change in (
        lambda: board.move_shard(0, 2),
        lambda: board.swap_shards(0, 2),
        lambda: board.move_boundary(0, 2),
        lambda: board.split_stage(1),
        lambda: board.merge_stages(0),
        lambda: board.set_shards(5),
        lambda: board.unplace(2),
        lambda: board.empty_node(2),
        lambda: board.set_serving(Serving("bfloat16", 1024, 4096)),
        lambda: board.place_model("small", 3),
        board.clear,
    ):
        change()
        assert board.arrangement != states[-1]
        states.append(board.arrangement)
    assert board.undo_stack.count() == len(states)
    for state in states[-2::-1]:
        board.undo_stack.undo()
        assert board.arrangement == state


def test_a_change_that_changes_nothing_is_no_step(board: BoardModel) -> None:
    board.place_model("small", 1)
    board.place_model("small", 1)
    assert board.undo_stack.count() == 1


def test_a_node_that_is_too_small_says_so_and_takes_nothing(board: BoardModel) -> None:
    assert board.judge_model("large", 1).text == "needs 4.5 GB, 4 GB free"
    with pytest.raises(PlacementError, match=r"node-1 needs 4\.5 GB, 4 GB free"):
        board.place_model("large", 1)
    assert board.model_name == "small" and board.undo_stack.count() == 0


def test_verdicts_count_what_the_draft_has_there_already(board: BoardModel) -> None:
    board.choose_model("large")
    board.propose()
    board.move_shard(0, 2)
    needed = board.arrangement.memory(2) if board.arrangement else 0
    held = board.arrangement.memory_on(2) if board.arrangement else 0
    assert board.judge_shard(2, 2).allowed is (needed + held <= 4000 * MB)
    assert not board.judge_shard(2, 2).allowed
    assert board.judge_shard(2, 1).allowed and board.judge_shard(2, 1).text.startswith("fits: ")
    assert board.judge_shard(2, 3).text == "is on this node already"


def test_a_boundary_is_judged_by_what_both_sides_would_take(board: BoardModel) -> None:
    board.choose_model("large")
    board.propose()
    assert board.judge_boundary(0, board.boundaries()[0] - 1).text.startswith("layers 0–")
    board.set_shards(2)
    board.move_shard(0, 1)
    board.move_shard(1, 2)
    verdict = board.judge_boundary(0, 39)
    assert not verdict.allowed and verdict.text.startswith("node-1 needs ")
    with pytest.raises(PlacementError, match="node-1 needs"):
        board.move_boundary(0, 39)


def test_a_shortage_from_other_settings_is_shown_and_may_be_mended(board: BoardModel) -> None:
    board.place_model("small", 1)
    board.set_serving(Serving("float32", 4096, 400_000))
    lane = board.lanes()[0]
    assert lane.shortage > 0 and lane.free == 0
    assert not board.can_deploy[0] and "node-1 needs" in board.can_deploy[1]
    board.split_stage(0)  # what was too large before may stay so
    board.move_shard(1, 2)
    assert board.lanes()[0].shortage < lane.shortage


@pytest.mark.parametrize(
    ("heard", "says"),
    [
        (Heard(False, reason="the cable"), "is down: the cable"),
        (Heard(False, "stopped", "the cable"), "is stopped; start its agent first"),
        (Heard(True, reason="the cable", frozen=True), "hangs: the cable"),
        (Heard(False, starting=True), "is starting"),
    ],
)
def test_a_node_that_is_away_is_shown_and_takes_nothing(board: BoardModel, heard: Heard, says: str) -> None:
    board.workbench.cluster.take_heard(2, heard)
    assert [lane.available for lane in board.lanes()] == [True, False, True]
    assert board.judge_model("small", 2).text == says
    assert board.judge_shard(0, 2) == board.judge_model("small", 2)
    with pytest.raises(PlacementError, match=says):
        board.move_shard(0, 2)
    board.propose()
    assert board.pipeline() == (1, 3)


def test_a_draining_node_takes_nothing_new(board: BoardModel) -> None:
    cluster = board.workbench.cluster
    cluster.take_lists(
        Lists(nodes=tuple(replace(v.record, draining=v.id == 1) for v in cluster.nodes.values()))
    )  # fmt: skip
    assert board.judge_model("small", 1).text == "is draining and takes no new work"
    with pytest.raises(PlacementError, match=r"node-1 is draining and takes no new work\. Take another node"):
        board.place_model("small", 1)


def test_the_memory_of_other_deployments_is_taken_and_that_of_its_own_is_free(board: BoardModel) -> None:
    cluster = board.workbench.cluster
    cluster.take_lists(Lists(deployments=(deployment("a", LARGE, [(1, 0, 20), (2, 20, 40)]),)))
    first = board.lanes()[0]
    (block,) = first.blocks
    assert (block.kind, block.label, block.stage) == (BlockKind.OTHER, "large", None)
    assert first.free == 4000 * MB - block.memory
    assert board.judge_model("small", 1).text.startswith("fits: 1.5 GB of ")
    board.choose_model("large")
    assert board.pipeline() == (1, 2) and board.is_loaded
    assert [block.kind for block in board.lanes()[0].blocks] == [BlockKind.DEPLOYED]
    assert board.capacities()[1].free_memory == 4000 * MB


def test_a_draft_of_a_deployed_model_is_proposed_once_it_differs(board: BoardModel) -> None:
    board.workbench.cluster.take_lists(Lists(deployments=(deployment("a", SMALL, [(1, 0, 6), (2, 6, 12)]),)))
    assert board.is_loaded and board.can_deploy == (False, "small is deployed as shown.")
    board.split_stage(0)
    assert board.is_loaded, "a seam within a node is not loaded differently"
    board.move_shard(0, 3)
    assert not board.is_loaded
    assert board.lanes()[2].blocks[0].kind is BlockKind.PROPOSED
    board.undo_stack.undo()
    assert board.is_loaded


def test_an_untouched_draft_goes_with_a_deployment_from_elsewhere_and_a_changed_one_stays(board: BoardModel) -> None:
    cluster = board.workbench.cluster
    cluster.take_lists(Lists(deployments=(deployment("a", SMALL, [(2, 0, 12)]),)))
    assert board.pipeline() == (2,)
    board.move_shard(0, 1)
    cluster.take_lists(Lists(deployments=(deployment("b", SMALL, [(3, 0, 12)]),)))
    assert board.pipeline() == (1,)


def test_a_node_that_is_removed_leaves_its_shards_without_one(board: BoardModel) -> None:
    board.propose()
    board.select(Selection(node_id=3))
    cluster = board.workbench.cluster
    cluster.take_lists(Lists(nodes=tuple(view.record for view in cluster.nodes.values() if view.id != 3)))
    assert board.pipeline() == (1, 2, None) and len(board.lanes()) == 2
    assert board.selection.node_id is None
    board.undo_stack.undo()
    board.undo_stack.redo()
    assert board.pipeline() == (1, 2, None), "undo brings no node back that is gone"


def test_a_model_that_is_removed_is_not_chosen_any_more(board: BoardModel) -> None:
    board.propose()
    board.workbench.cluster.take_lists(Lists(models=(LARGE,)))
    assert board.model_name is None and board.arrangement is None
    with pytest.raises(BadInput, match="No model is chosen"):
        board.propose()


def test_undo_shows_the_model_that_it_belongs_to(board: BoardModel) -> None:
    board.propose()
    board.choose_model("large")
    board.undo_stack.undo()
    assert board.model_name == "small" and board.pipeline() == (None,)


def test_dropping_another_model_chooses_it(board: BoardModel) -> None:
    board.propose("large")
    assert board.model_name == "large" and len(board.pipeline()) == 3


def test_a_model_for_which_all_nodes_are_too_small_is_judged_so(board: BoardModel) -> None:
    cluster = board.workbench.cluster
    cluster.take_lists(Lists(models=(model("huge", layers=200),)))
    assert board.judge_model("huge", None).text.startswith("needs 21")
    board.choose_model("huge")
    with pytest.raises(PlacementError, match="does not fit"):
        board.propose()
    assert board.best_single is None


def test_the_speed_is_predicted_beside_the_best_single_node(board: BoardModel) -> None:
    board.propose()
    assert board.prediction is None, "no node has measured itself"
    simulated.measured(board.workbench.cluster)
    prediction, best = board.prediction, board.best_single
    assert prediction is not None and best is not None and best.prediction is not None
    assert len(prediction.share) == 3
    assert 0 < prediction.tokens_per_second < best.prediction.tokens_per_second, "hops cost time on equal nodes"
    board.unplace(0)
    assert board.prediction is None


def test_news_of_nodes_are_told_once_in_a_while(board: BoardModel, qtbot: QtBot) -> None:
    with qtbot.waitSignal(board.changed):
        for _ in range(20):
            board.workbench.cluster.take_node_events([simulated.health(1, budget=3_000 * MB)])
    assert board.lanes()[0].budget == 3_000 * MB


def test_drafts_and_the_chosen_model_are_found_again(board: BoardModel, quiet_workbench: Workbench) -> None:
    board.propose()
    board.move_shard(0, 2)
    wanted = board.arrangement
    again = BoardModel(quiet_workbench, quiet_workbench)
    again.restore(board.save())
    assert again.model_name == "small" and again.arrangement == wanted


@pytest.mark.parametrize(
    "draft", [None, 7, {}, {"dtype": "float32", "context": 1, "kv_tokens": 1, "pieces": [[0, 5, 1]]}]
)
def test_a_stored_draft_that_makes_no_sense_is_passed_over(quiet_workbench: Workbench, draft: object) -> None:
    fill(quiet_workbench.cluster, models=(SMALL,))
    board = BoardModel(quiet_workbench, quiet_workbench)
    board.restore({"model": "small", "drafts": {"small": draft}})
    assert board.pipeline() == (None,)


def test_preferences_decide_what_a_draft_is_made_for(quiet_workbench: Workbench) -> None:
    quiet_workbench.settings.set("board/dtype", "bfloat16")
    quiet_workbench.settings.set("board/context", 512)
    fill(quiet_workbench.cluster, models=(SMALL,))
    board = BoardModel(quiet_workbench, quiet_workbench)
    board.choose_model("small")
    assert board.arrangement is not None
    assert (board.arrangement.serving.dtype, board.arrangement.serving.context) == ("bfloat16", 512)
