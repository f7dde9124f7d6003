"""The list of conversations and the choice of models, as Qt's models."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from PySide6.QtCore import QModelIndex, Qt
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

from app.ui.chat.conversation import Summary
from app.ui.chat.conversation_list import ConversationList, ListRole
from app.ui.chat.model_choices import ChoiceRole, ModelChoices
from app.ui.workbench import Workbench
from tests.ui import simulated
from tests.ui.simulated import MB


def summary(id: str, *, minutes: int = 0) -> Summary:
    return Summary(id=id, title=f"About {id}", model="m", updated_at=datetime.now(UTC) - timedelta(minutes=minutes))


def titles(model: ConversationList) -> list[str]:
    return [str(model.index(row).data()) for row in range(model.rowCount())]


@pytest.mark.parametrize("force_py", [False, True])
def test_conversations_come_move_change_and_go(qtmodeltester: ModelTester, force_py: bool) -> None:
    model = ConversationList()
    qtmodeltester.check(model, force_py=force_py)  # goes on watching
    model.reset([summary("a"), summary("b", minutes=3)])
    model.put(summary("c"))
    assert titles(model) == ["About c", "About a", "About b"]
    model.put(summary("b"), on_top=True)
    assert titles(model) == ["About b", "About c", "About a"]
    model.set_streaming("c", True)
    assert model.index(1).data(ListRole.STREAMING) and not model.index(0).data(ListRole.STREAMING)
    gone = model.summary("c")
    assert gone is not None
    model.take("c")
    assert titles(model) == ["About b", "About a"]
    model.restore(gone, 1)
    assert titles(model) == ["About b", "About c", "About a"]
    model.refresh_times()


def test_a_title_can_be_changed_and_an_empty_one_is_refused(qtbot: QtBot) -> None:
    model = ConversationList()
    model.reset([summary("a")])
    with qtbot.waitSignal(model.renamed) as renamed:
        assert model.setData(model.index(0), "  Boats \n and ships ")
    assert renamed.args == ["a", "Boats and ships"]
    assert not model.setData(model.index(0), "   ") and titles(model) == ["Boats and ships"]
    assert not model.setData(QModelIndex(), "x")


@pytest.mark.parametrize("force_py", [False, True])
def test_deployed_models_come_first_and_each_says_what_asking_it_means(
    quiet_workbench: Workbench, qtmodeltester: ModelTester, force_py: bool
) -> None:
    small, large = simulated.model("Zebra"), simulated.model("Ape", layers=80, layer_bytes=900 * MB)
    other = simulated.model("Bear")
    choices = ModelChoices(quiet_workbench.cluster)
    qtmodeltester.check(choices, force_py=force_py)  # goes on watching
    deployed = simulated.deployment("d", small, [(1, 0, 6), (2, 6, 12)])
    simulated.fill(quiet_workbench.cluster, models=(large, other, small), deployments=(deployed,))
    choices.refresh()
    assert [row.name for row in choices.rows] == ["Zebra", "Bear", "Ape"]
    notes = [str(choices.index(row).data(ChoiceRole.NOTE)) for row in range(3)]
    assert notes[0] == "Deployed on node-1 → node-2" and notes[1].startswith("Loads on node-") and "Board" in notes[2]
    assert not choices.index(2).flags() & Qt.ItemFlag.ItemIsEnabled
    simulated.fill(quiet_workbench.cluster, models=(other, small), deployments=())
    assert [row.name for row in choices.rows] == ["Bear", "Zebra"] and not choices.rows[0].ready


def test_a_model_without_a_deployment_loads_where_a_request_has_it_loaded(quiet_workbench: Workbench) -> None:
    cluster = quiet_workbench.cluster
    simulated.fill(cluster, models=(simulated.model("Bear"),))
    simulated.measured(cluster, node_2=60e9)
    cluster.take_node_events([simulated.health(2, used=100 * MB)])
    choices = ModelChoices(cluster)
    choices.refresh()
    (row,) = choices.rows
    assert row.note == "Loads on node-2 when you ask", "the fastest that can hold it, not the emptiest"
