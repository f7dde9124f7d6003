"""Events over REST: the newest first, narrowed down by what is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.registry import EventLevel
from tests.api.serving import MODEL, Served, serving
from tests.e2e.conftest import System
from tests.waiting import wait_until

RECENT = "/shard/api/events/recent/"
NOON = datetime(2031, 5, 4, 12, tzinfo=UTC)
"""When the events of these tests happened: later than all others, so that others do not mix in."""


@pytest.fixture(scope="module")
def served(bare: System) -> Iterator[Served]:
    events = bare.controller.registry.events
    made = [
        (EventLevel.DEBUG, "first", {"node_id": 71}),
        (EventLevel.INFO, "Second 100% done", {"deployment_id": "d7"}),
        (EventLevel.WARNING, "third", {"request_id": 700, "node_id": 72}),
        (EventLevel.ERROR, "fourth", {"request_id": 700}),
    ]
    for minutes, (level, message, about) in enumerate(made):
        events.add(level, f"tests{minutes % 2}", message, at=NOON + timedelta(minutes=minutes), **about)
    with serving(bare) as served:
        yield served


def messages(served: Served, **params: Any) -> list[str]:
    return [event["message"] for event in served.get(RECENT, params={"since": NOON.isoformat(), **params})["events"]]


def test_events_are_told_newest_first(served: Served) -> None:
    (event, *rest) = served.get(RECENT, params={"since": NOON.isoformat()})["events"]
    assert event.pop("id") > 0
    assert event == {
        "at": "2031-05-04T12:03:00Z", "level": "error", "source": "tests1", "message": "fourth",
        "node_id": None, "deployment_id": None, "request_id": 700,
    }  # fmt: skip
    assert [each["message"] for each in rest] == ["third", "Second 100% done"], "debug is not asked for"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"at_least": "debug"}, ["fourth", "third", "Second 100% done", "first"]),
        ({"at_least": "warning"}, ["fourth", "third"]),
        ({"at_least": "error"}, ["fourth"]),
        ({"source": "tests1"}, ["fourth", "Second 100% done"]),
        ({"source": "tests"}, []),
        ({"text": "second"}, ["Second 100% done"]),
        ({"text": "0% d"}, ["Second 100% done"]),
        ({"text": "%"}, ["Second 100% done"]),
        ({"text": "_"}, []),
        ({"node_id": 72}, ["third"]),
        ({"deployment_id": "d7"}, ["Second 100% done"]),
        ({"request_id": 700}, ["fourth", "third"]),
        ({"request_id": 700, "at_least": "error"}, ["fourth"]),
        ({"limit": 1}, ["fourth"]),
        ({"limit": 1, "offset": 1}, ["third"]),
        ({"since": "2031-05-04T12:02:00Z"}, ["fourth", "third"]),
        ({"since": "2031-05-04T14:02:00+02:00", "until": "2031-05-04T12:03:00Z"}, ["third"]),
        ({"until": "2031-05-04T12:00:00Z"}, []),
        ({"since": "9999-12-31T23:59:59-23:00"}, []),
    ],
)
def test_events_are_narrowed_down(served: Served, params: dict[str, Any], expected: list[str]) -> None:
    assert messages(served, **params) == expected


def test_a_time_without_a_zone_is_the_controllers_own(served: Served) -> None:
    local = (NOON + timedelta(minutes=2)).astimezone().replace(tzinfo=None)
    assert messages(served, since=local.isoformat()) == ["fourth", "third"]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 1001},
        {"offset": -1},
        {"at_least": "fatal"},
        {"node_id": 0},
        {"request_id": "x"},
        {"since": "soon"},
        {"text": "x" * 201},
    ],
)
def test_what_cannot_be_asked_for_is_told_by_name(served: Served, params: dict[str, Any]) -> None:
    error = served.error("GET", RECENT, 422, params=params)
    assert error["message"].startswith(next(iter(params)))


def test_what_happens_to_nodes_and_deployments_is_there(api: Served) -> None:
    (deployment,) = api.get("/shard/api/deployments/status/")["deployments"]
    assert api.get(RECENT, params={"deployment_id": deployment["id"]})["events"]
    node = api.system.nodes[0].id
    wait_until(lambda: bool(api.get(RECENT, params={"node_id": node, "source": "health"})["events"]))
    assert api.get(RECENT, params={"source": "models", "text": MODEL})["events"]
