"""One state of a node, by one rule."""

from __future__ import annotations

import dataclasses

import pytest

from app.cluster.node_state import ANSWERING, NOTHING, Heard, NodeState, node_state
from app.registry.records import NodeRecord


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
