"""Banners about nodes: raised when one is lost that mattered, withdrawn when it is back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.cluster.health import NodeDown, NodeFrozen
from app.cluster.node_state import NodeState
from app.ui.lists import Lists
from app.ui.nodes.node_watch import NodeWatch
from app.ui.notices import Level
from app.ui.workbench import Workbench
from tests.ui.simulated import deployment, fill, health, model, node_record


@pytest.fixture
def watched(quiet_workbench: Workbench) -> Workbench:
    """Three nodes that are up; SmolLM2 runs on the first two."""
    NodeWatch(quiet_workbench)
    small = model("SmolLM2")
    fill(quiet_workbench.cluster, models=(small,), deployments=(deployment("d", small, [(1, 0, 6), (2, 6, 12)]),))
    return quiet_workbench


def down(node: int, kind: str = "timeout") -> NodeDown:
    return NodeDown(node, datetime.now(UTC), kind, "It has left 3 health beats unanswered.")


def test_a_node_that_goes_down_is_told_with_what_it_affects_until_it_is_back(watched: Workbench) -> None:
    watched.cluster.take_node_events([down(1)])
    (banner,) = watched.notices.banners
    assert (banner.key, banner.level) == ("node-1", Level.ERROR)
    assert banner.text == "node-1 is down. SmolLM2 cannot answer until it is back."
    assert banner.advice == "It has left 3 health beats unanswered."
    shown: list[tuple[str, object]] = []
    watched.navigate.connect(lambda screen, what: shown.append((screen, what)))
    banner.actions[0].run()
    assert shown == [("nodes", 1)]
    watched.cluster.take_node_events([health(1)])
    assert watched.notices.banners == []


def test_a_frozen_node_is_told_and_one_that_nothing_needs_is_only_a_warning(watched: Workbench) -> None:
    watched.cluster.take_node_events([NodeFrozen(2, datetime.now(UTC), 40.0, 12.0), down(3)])
    frozen, idle = sorted(watched.notices.banners, key=lambda banner: banner.key)
    assert "node-2 is frozen. SmolLM2" in frozen.text and frozen.level is Level.ERROR
    assert idle.text == "node-3 is down." and idle.level is Level.WARNING


def test_the_same_news_twice_brings_no_closed_banner_back(watched: Workbench) -> None:
    watched.cluster.take_node_events([down(1)])
    watched.notices.close(watched.notices.banners[0].number)
    watched.cluster.take_node_events([down(1)])
    assert watched.notices.banners == []


def test_stopped_agents_and_strangers_are_calm_at_start_up(quiet_workbench: Workbench) -> None:
    NodeWatch(quiet_workbench)
    cluster, small = quiet_workbench.cluster, model("SmolLM2")
    cluster.take_lists(
        Lists((node_record(1, here=True), node_record(2)), (small,), (deployment("d", small, [(1, 0, 12)]),))
    )
    cluster.take_node_events([down(1, "refused"), down(2)])
    assert cluster.nodes[1].state is NodeState.STOPPED and cluster.nodes[2].state is NodeState.DOWN
    assert quiet_workbench.notices.banners == []


def test_an_agent_of_this_machine_that_dies_under_a_deployment_can_be_started_from_its_banner(
    quiet_workbench: Workbench,
) -> None:
    NodeWatch(quiet_workbench)
    cluster, small = quiet_workbench.cluster, model("SmolLM2")
    cluster.take_lists(Lists((node_record(1, here=True),), (small,), (deployment("d", small, [(1, 0, 12)]),)))
    cluster.take_node_events([health(1)])
    cluster.take_node_events([down(1, "refused")])
    (banner,) = quiet_workbench.notices.banners
    assert banner.text.startswith("node-1 has stopped. SmolLM2") and banner.actions[0].text == "Start agent"
    banner.actions[0].run()
    assert cluster.nodes[1].state is NodeState.STARTING
    assert quiet_workbench.notices.banners == []


def test_a_removed_node_takes_its_banner_along(watched: Workbench) -> None:
    watched.cluster.take_node_events([down(3)])
    watched.cluster.take_lists(Lists(nodes=(node_record(1), node_record(2))))
    assert watched.notices.banners == []
