"""What agents tell of how they run and of what they hold, as the window shows it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QWidget
from pytestqt.qtbot import QtBot

from app.cluster.health import NodeDown, NodeMemoryJudged, NodeUp
from app.cluster.node_state import Heard, NodeState
from app.figures import size_text
from app.sharding.stage_sizes import working_bytes
from app.ui.board.board_commands import BoardCommands
from app.ui.board.panes.inspector import Inspector
from app.ui.board.panes.page import Facts
from app.ui.board.panes.stage_ways import breakable
from app.ui.board.scene.block_item import tool_tip
from app.ui.board.scene.layout import BlockPlace
from app.ui.board.scene.words import lane_text
from app.ui.board.state.board_model import BoardModel
from app.ui.board.state.lanes import Selection
from app.ui.nodes.node_row import NodeColumn
from app.ui.nodes.node_words import details_text, process_text
from app.ui.nodes.nodes_model import NodeRole, NodesModel
from app.ui.workbench import Workbench
from tests.ui.simulated import MB, deployment, fill, health, held, model
from worker_agent.wire.messages import Way

SMALL = model("small")
DEPLOYED = deployment("a", SMALL, [(1, 0, 6), (2, 6, 12)])
WHOLE = (Way("norms", 12, 12), Way("batched", 6, 6), Way("packed", 0, 0, "there are no such kernels for float16"))
PARTLY = (Way("norms", 12, 12), Way("batched", 2, 6, "layer 8: it differs by 3 %"), WHOLE[2])
TROUBLE = "The agent's process holds 1.9 GB of memory, and 1.3 GB are accounted for: 600 MB more."


@pytest.fixture
def board(qtbot: QtBot, quiet_workbench: Workbench) -> BoardModel:
    cluster = quiet_workbench.cluster
    fill(cluster, models=(SMALL,), deployments=(DEPLOYED,))
    cluster.take_node_events(
        [
            health(1, used=110 * MB, stages=(held(DEPLOYED, 0, *WHOLE),)),
            health(2, used=110 * MB, stages=(held(DEPLOYED, 1, *PARTLY),)),
        ]
    )
    made = BoardModel(quiet_workbench, quiet_workbench)
    made.choose_model("small")
    return made


@pytest.fixture
def inspector(qtbot: QtBot, board: BoardModel) -> Inspector:
    holder = QWidget()
    qtbot.addWidget(holder)
    made = Inspector(board, BoardCommands(board, holder), holder)
    holder.show()
    return made


def label(facts: Facts, text: str) -> QLabel:
    return next(each for each in facts.findChildren(QLabel) if each.text() == text)


def test_a_shards_page_says_how_it_runs_and_why_not_faster(inspector: Inspector, board: BoardModel) -> None:
    board.select(Selection(2, 1, "small"))
    runs = inspector.stage.runs
    assert runs.value("Fast norms") == "all 12 norms"
    assert runs.value("Shared steps") == "each answer has a pass of its own: layer 8: it differs by 3 %"
    assert runs.value("Packed weights") == "not here: there are no such kernels for float16"
    assert "Several answers share each step" in label(runs, "Shared steps").toolTip()
    marked = [each.text() for each in runs.findChildren(QLabel) if each.property("role") == "warning"]
    assert marked == ["each answer has a pass of its own: layer 8: it differs by 3 %"], (
        "what cannot be had here is no loss"
    )


def test_a_shard_that_is_not_loaded_says_nothing_of_how_it_runs(inspector: Inspector, board: BoardModel) -> None:
    board.select(Selection(1, 0, "small"))
    assert not inspector.stage.runs.isHidden()
    board.move_shard(0, 3)
    board.select(Selection(3, 0, "small"))
    assert inspector.stage.runs.isHidden()


def test_a_models_page_says_what_its_stages_do_not_have_in_common(inspector: Inspector, board: BoardModel) -> None:
    board.select(Selection(model="small"))
    runs = inspector.model.runs
    assert runs.value("Fast norms") == "on every stage"
    assert runs.value("Shared steps") == "node-2, layers 6–11: each answer has a pass of its own"
    assert (
        "node-2, layers 6–11: each answer has a pass of its own: layer 8: it differs"
        in label(runs, "Shared steps").toolTip()
    )
    assert runs.value("Packed weights") == "not here: there are no such kernels for float16"


def test_a_shard_that_runs_slower_than_it_might_is_marked(board: BoardModel) -> None:
    place = BlockPlace(0, 10, 0, True)
    whole, partly = (lane.blocks[0] for lane in board.lanes()[:2])
    assert whole.slower == "" and "Slower" not in tool_tip(whole, place)
    assert "Slower than it might be: each answer has a pass of its own: layer 8" in tool_tip(partly, place)
    assert "slower than it might be" in lane_text(board.lanes()[1])
    board.set_shards(3)
    assert not any(block.slower for lane in board.lanes() for block in lane.blocks), "a draft does not run"


def test_a_nodes_page_says_what_its_process_should_hold_and_holds(inspector: Inspector, board: BoardModel) -> None:
    board.select(Selection(node_id=1))
    facts = inspector.node.process
    assert facts.value("Agent itself") == "300 MB"
    blocks = board.lanes()[0].blocks
    layers = sum(block.end - block.start for block in blocks)
    assert layers and working_bytes(layers) > 40 * MB
    expected = 300 * MB + sum(block.memory for block in blocks) + working_bytes(layers)
    assert facts.value("Expected") == f"{size_text(expected)} once caches are full"
    assert (facts.value("Accounted"), facts.value("Holds")) == ("410 MB now", "410 MB now")
    with pytest.raises(KeyError):
        facts.value("Note")
    board.workbench.cluster.take_node_events([NodeMemoryJudged(1, datetime.now(UTC), True, TROUBLE)])
    board.changed.emit()
    assert inspector.node.process.value("Note") == TROUBLE


def test_memory_that_is_not_accounted_for_is_marked_until_it_is_over(quiet_workbench: Workbench) -> None:
    cluster = quiet_workbench.cluster
    fill(cluster, nodes=2)
    nodes = NodesModel(cluster)
    cell = nodes.index(0, NodeColumn.MEMORY)
    assert "Its process: 300 MB held, 300 MB accounted for" in cell.data(Qt.ItemDataRole.ToolTipRole)
    cluster.take_node_events([NodeMemoryJudged(1, datetime.now(UTC), True, TROUBLE), health(1, held=1_900 * MB)])
    nodes.flush()
    assert cell.data(NodeRole.ROW).memory_problem == TROUBLE
    assert TROUBLE in cell.data(Qt.ItemDataRole.ToolTipRole)
    cluster.take_node_events([NodeMemoryJudged(1, datetime.now(UTC), False, "over"), health(1)])
    nodes.flush()
    assert cell.data(NodeRole.ROW).memory_problem == ""


def test_a_judgement_of_memory_brings_no_node_back_and_a_new_process_forgets_it(quiet_workbench: Workbench) -> None:
    cluster = quiet_workbench.cluster
    fill(cluster, nodes=1)
    now = datetime.now(UTC)
    cluster.take_node_events([NodeMemoryJudged(1, now, True, TROUBLE), NodeDown(1, now, "lost", "gone")])
    cluster.take_node_events([NodeMemoryJudged(1, now, True, TROUBLE)])
    assert cluster.nodes[1].state is NodeState.DOWN
    cluster.take_node_events([NodeUp(1, now, None, True)])  # type: ignore[arg-type]  # nobody looks at its Welcome
    assert (cluster.nodes[1].state, cluster.nodes[1].memory_problem) == (NodeState.UP, "")


def test_a_nodes_details_say_what_the_agent_takes_also_while_it_is_away(quiet_workbench: Workbench) -> None:
    cluster = quiet_workbench.cluster
    fill(cluster, nodes=1)
    cluster.take_node_events([health(1, used=700 * MB)])
    assert process_text(cluster.nodes[1]) == ("Its process: 1 GB held, 1 GB accounted for (300 MB by the agent itself)")
    assert "Its process: 1 GB held, 1 GB accounted for (300 MB by the agent itself)" in details_text(
        cluster.nodes[1], ()
    )
    cluster.take_heard(1, Heard(False))
    assert process_text(cluster.nodes[1]) == "The agent itself takes 300 MB besides"


def test_long_words_may_end_a_line() -> None:
    assert breakable("no attribute of 0.01 in self_attn.q_proj") == "no attribute of 0.01 in self_attn.q_proj"
    pieces = breakable("'window_of_the_attention_that_everybodyneedssomuch'").split("\u200b")
    assert "".join(pieces) == "'window_of_the_attention_that_everybodyneedssomuch'"
    assert max(map(len, pieces)) <= 16
