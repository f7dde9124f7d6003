"""The first page: from nothing to a model split over two agents with one button."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from app.errors import NodeError, ShardboardError
from app.inference.prompt import ChatPrompt
from app.paths import Home
from app.ui.lists import Lists
from app.ui.shell.first_run import WelcomePage
from app.ui.shell.setup import SetupState
from app.ui.shell.setup_step import StepProgress, StepState
from app.ui.shell.setup_steps import MODEL
from app.ui.workbench import Workbench
from tests.ui import simulated

DEMO = simulated.model(MODEL, layers=30)


@pytest.fixture
def page(quiet_workbench: Workbench, qtbot: QtBot) -> WelcomePage:
    quiet_workbench.cluster.take_lists(Lists((), (), ()))
    made = WelcomePage(quiet_workbench)
    qtbot.addWidget(made)
    made.resize(1280, 800)
    made.show()
    return made


@pytest.fixture
def home_with_model(home: Home, smollm: Path) -> Home:
    """The demo's model is in the library already, so that no test downloads it."""
    (home.models / smollm.parent.name).symlink_to(smollm.parent, target_is_directory=True)
    return home


@pytest.fixture
def leaving_no_agents(home_with_model: Home, workbench: Workbench, qtbot: QtBot) -> Iterator[Workbench]:
    yield workbench

    async def end_all(controller: Any, report: Any) -> None:
        for node in controller.registry.nodes.list():
            await controller.remove_node(str(node.id))

    with qtbot.waitSignal(workbench.bridge.call(end_all, "ending the agents").ended, timeout=30_000):
        pass


def test_nothing_is_there_at_first_and_only_what_is_possible_can_be_pressed(page: WelcomePage) -> None:
    assert [card.step.state for card in page.cards] == [StepState.WAITING] * 3
    assert page.primary.objectName() == "welcome-setup" and page.primary.hasFocus()
    agents, model, split = (card.button for card in page.cards)
    assert agents.isEnabled() and model.isEnabled() and not split.isEnabled()
    assert "agents have to run" in split.toolTip()


def test_what_is_there_already_is_shown_as_done(page: WelcomePage, quiet_workbench: Workbench) -> None:
    simulated.fill(quiet_workbench.cluster, nodes=2)
    assert [card.step.state for card in page.cards] == [StepState.DONE, StepState.WAITING, StepState.WAITING]
    simulated.fill(quiet_workbench.cluster, nodes=2, models=(DEMO,))
    assert [card.step.state for card in page.cards] == [StepState.DONE, StepState.DONE, StepState.WAITING]
    assert page.cards[2].button.isEnabled()
    assert page.picture.state.agents == ("node-1", "node-2") and not page.picture.state.is_split


def test_a_split_model_opens_the_chat(page: WelcomePage, quiet_workbench: Workbench, qtbot: QtBot) -> None:
    split = simulated.deployment("d1", DEMO, [(1, 0, 16), (2, 16, 30)])
    simulated.fill(quiet_workbench.cluster, nodes=2, models=(DEMO,), deployments=(split,))
    assert page.primary.objectName() == "welcome-chat" and page.primary.text() == "Open chat"
    assert page.picture.state.boundary == 16
    assert "0–15 on node-1" in page.cards[2].status.text()
    with qtbot.waitSignal(quiet_workbench.navigate) as gone:
        page.primary.click()
    assert gone.args == ["chat", MODEL]


@pytest.mark.parametrize(("link", "to"), [("welcome-own", ["board", None]), ("welcome-invite", ["nodes", "invite"])])
def test_there_are_other_ways_to_begin(
    page: WelcomePage, quiet_workbench: Workbench, qtbot: QtBot, link: str, to: list[object]
) -> None:
    with qtbot.waitSignal(quiet_workbench.navigate) as gone:
        page.findChild(QPushButton, link).click()
    assert gone.args == to


def test_a_failed_step_says_why_and_what_to_do_and_can_be_tried_again(page: WelcomePage) -> None:
    step, card = page.setup.agents, page.cards[0]
    step.finish(succeeded=False, error=NodeError("agent-2 did not come up.", "Free some memory."))
    assert card.status.text() == "agent-2 did not come up. Free some memory."
    assert card.button.text() == "Retry" and card.details.isVisible()
    assert page.setup.state is SetupState.FAILED and page.primary.text() == "Try again"
    assert page.primary.isEnabled()


def test_a_running_step_shows_how_far_it_is(page: WelcomePage, quiet_workbench: Workbench, qtbot: QtBot) -> None:
    page.primary.click()  # the controller is never opened here: the call waits
    assert page.setup.agents.state is StepState.RUNNING and page.setup.state is SetupState.RUNNING
    page.setup.agents.show_progress(StepProgress("Sending", 31_000_000, 93_000_000, 12.3))
    assert page.cards[0].status.text() == "Sending · 31 of 93 MB · about 12 s left"
    assert page.cards[0].bar.isVisible() and page.cards[0].bar.value() == 333
    assert page.cancel.isVisible() and not page.primary.isEnabled()
    assert page.busy_with() == ["starting the agents"]


def test_narrow_windows_get_the_cards_below_each_other(page: WelcomePage, qtbot: QtBot) -> None:
    one, two, _ = page.cards
    assert one.y() == two.y()
    page.resize(500, 800)
    qtbot.waitUntil(lambda: two.y() >= one.y() + one.height())


def test_one_button_leads_to_a_model_that_answers(leaving_no_agents: Workbench, qtbot: QtBot) -> None:
    workbench = leaving_no_agents
    page = WelcomePage(workbench)
    qtbot.addWidget(page)
    page.show()
    page.setup.agents.start()
    page.setup.agents.cancel()
    qtbot.waitUntil(lambda: page.setup.agents.state is StepState.WAITING, timeout=30_000)
    qtbot.mouseClick(page.primary, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: page.setup.state is not SetupState.RUNNING, timeout=120_000)
    assert [(card.step.state, card.status.text()) for card in page.cards if card.step.state is not StepState.DONE] == []
    deployment = workbench.cluster.deployment_of(MODEL)
    assert deployment is not None
    first, last = (
        deployment.shards
    )  # where it is cut is the planner's choice, by what the agents measured of themselves
    assert first.start_layer == 0 and first.end_layer == last.start_layer and last.end_layer == 30
    assert len({shard.node_id for shard in deployment.shards}) == 2
    stream = workbench.bridge.generate(MODEL, ChatPrompt.of("What is the capital of France?"))
    failures: list[ShardboardError] = []
    stream.failed.connect(failures.append)
    with qtbot.waitSignal(stream.ended, timeout=60_000) as ended:
        pass
    assert failures == [] and "Paris" in ended.args[0].result


def test_an_agent_that_cannot_start_is_told_of_and_the_rest_goes_on(
    leaving_no_agents: Workbench, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from app.children import starting

    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no room for torch' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(starting.sys, "executable", str(broken))
    page = WelcomePage(leaving_no_agents)
    qtbot.addWidget(page)
    page.show()
    page.primary.click()
    qtbot.waitUntil(lambda: page.setup.state is SetupState.FAILED, timeout=30_000)
    assert page.setup.agents.error is not None and "no room for torch" in page.cards[0].status.text()
    assert page.setup.split.state is StepState.WAITING
