"""One state of a node, by one rule."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from app.cluster.health import NodeDown, NodeFrozen, NodeStarting, NodeYields, heard_after
from app.cluster.node_state import ANSWERING, NOTHING, Heard, NodeState, node_state
from app.registry.records import NodeRecord
from tests.ui.simulated import health


def record(*, draining: bool = False, pid: int | None = None) -> NodeRecord:
    values = {field.name: None for field in dataclasses.fields(NodeRecord)}
    return NodeRecord(**{**values, "id": 1, "draining": draining, "local_pid": pid})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("heard", "state"),
    [
        (NOTHING, NodeState.CONNECTING),
        (Heard(alive=True), NodeState.UP),
        (Heard(alive=True, frozen=True, reason="It has been at it for 40 s."), NodeState.FROZEN),
        (Heard(alive=False, trouble="timeout"), NodeState.DOWN),
        (Heard(alive=False, trouble="refused"), NodeState.DOWN),
        (Heard(alive=False, trouble="refused", starting=True), NodeState.STARTING),
        (Heard(alive=True, starting=True), NodeState.UP),
    ],
)
def test_a_node_of_another_machine_is_what_its_connection_and_beats_say(heard: Heard, state: NodeState) -> None:
    assert node_state(record(), heard) is state
    assert state.is_up is heard.is_up is (state is NodeState.UP), "what is counted as up, wherever nodes are counted"


def test_an_agent_of_this_machine_to_which_nothing_listens_is_stopped_and_not_lost() -> None:
    here = record(pid=4711)
    assert node_state(here, Heard(alive=False, trouble="refused")) is NodeState.STOPPED
    assert node_state(here, Heard(alive=False, trouble="stopped", reason="It did not start.")) is NodeState.STOPPED
    assert node_state(here, Heard(alive=False, trouble="timeout")) is NodeState.DOWN, "it is there and does not answer"


def test_what_keeps_a_node_from_answering_counts_before_that_it_is_drained() -> None:
    drained = record(draining=True)
    assert node_state(drained, Heard(alive=True)) is NodeState.DRAINING
    assert node_state(drained, Heard(alive=True, frozen=True)) is NodeState.FROZEN
    assert node_state(drained, Heard(alive=False, trouble="timeout")) is NodeState.DOWN


def test_every_state_has_a_meaning() -> None:
    assert all(state.meaning.endswith(".") for state in NodeState)
    assert {state for state in NodeState if node_state(record(), Heard(alive=True)) is state} <= ANSWERING


def test_what_happens_to_a_node_is_taken_in_by_one_rule() -> None:
    now = datetime.now(UTC)
    lost = heard_after(Heard(alive=True, gone="Ray has it no more."), NodeDown(1, now, "timeout", "It is silent."))
    assert (lost.alive, lost.trouble, lost.gone) == (False, "timeout", "Ray has it no more.")
    frozen = heard_after(Heard(alive=True), NodeFrozen(1, now, 40.0, 4.0))
    owned = heard_after(frozen, NodeYields(1, now, "The CPU is busy."))
    assert owned.frozen and owned.yields and owned.reason == frozen.reason, "why it does not get on counts first"
    assert heard_after(owned, health(1, busy=60.0)) == owned, "it hangs still"
    assert heard_after(owned, health(1)) == Heard(alive=True)
    starting = heard_after(lost, NodeStarting(1, now))
    assert heard_after(starting, NodeDown(1, now, "refused", "")).starting
    assert not heard_after(starting, NodeDown(1, now, "stopped", "It did not come up.")).starting
