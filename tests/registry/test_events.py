from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.registry import EventLevel, NodeRecord, Registry

NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


def test_an_event_comes_back_as_it_was_added(registry: Registry) -> None:
    event = registry.events.add(
        EventLevel.ERROR,
        "health",
        "node 3 fell silent",
        node_id=3,
        deployment_id="deadbeef",
        request_id=9,
        details={"silent_for": 5.5},
        at=NOON,
    )
    assert registry.events.list() == [event]
    assert (event.level, event.at, event.details) == (EventLevel.ERROR, NOON, {"silent_for": 5.5})


def test_what_happened_to_a_run_is_found_among_what_happened_to_others(registry: Registry) -> None:
    for node, deployment, request in ((1, None, None), (None, "mine", None), (None, "other", 7), (4, "other", 8)):
        registry.events.add(
            EventLevel.INFO, "test", f"{node} {deployment} {request}", node_id=node, deployment_id=deployment,
            request_id=request, at=NOON,
        )  # fmt: skip
    found = registry.events.list(of_run=({1, 2}, "mine", 7))
    assert {event.message for event in found} == {"1 None None", "None mine None", "None other 7"}
    assert registry.events.list(of_run=((), None, None)) == []


def test_events_are_listed_newest_first_by_what_they_are_about(registry: Registry) -> None:
    for minute in (2, 0, 3, 1):
        registry.events.add(
            EventLevel.WARNING if minute == 3 else EventLevel.INFO,
            "test",
            str(minute),
            node_id=minute % 2,
            at=NOON + timedelta(minutes=minute),
        )
    assert [event.message for event in registry.events.list()] == ["3", "2", "1", "0"]
    assert [event.message for event in registry.events.list(offset=1, limit=2)] == ["2", "1"]
    assert [event.message for event in registry.events.list(node_id=0)] == ["2", "0"]
    assert [event.message for event in registry.events.list(level=EventLevel.WARNING)] == ["3"]
    assert (registry.events.count(), registry.events.count(node_id=1, level=EventLevel.INFO)) == (4, 1)


def test_events_outlive_what_they_are_about(registry: Registry, node: NodeRecord) -> None:
    event = registry.events.add(EventLevel.INFO, "nodes", "added", node_id=node.id)
    registry.nodes.remove(node.id)
    assert registry.events.list(node_id=node.id) == [event]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    minutes=st.lists(st.integers(0, 5), max_size=8),
    before=st.none() | st.integers(0, 6),
    keep=st.none() | st.integers(0, 9),
)
def test_pruning_keeps_the_newest(registry: Registry, minutes: list[int], before: int | None, keep: int | None) -> None:
    registry.events.prune(keep=0)
    for minute in minutes:
        registry.events.add(EventLevel.INFO, "test", "", at=NOON + timedelta(minutes=minute))
    listed = registry.events.list()
    cutoff = None if before is None else NOON + timedelta(minutes=before)
    left = [event for event in listed if cutoff is None or event.at >= cutoff][:keep]
    assert registry.events.prune(before=cutoff, keep=keep) == len(minutes) - len(left)
    assert registry.events.list() == left


def test_many_events_are_pruned_in_several_steps(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.registry.events._PRUNED_AT_ONCE", 3)
    for _ in range(10):
        registry.events.add(EventLevel.INFO, "test", "")
    assert registry.events.prune(keep=2) == 8
    assert registry.events.count() == 2
