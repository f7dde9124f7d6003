"""One controller per registry; what it leaves behind when it dies; what may stand beside it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from app.errors import RegistryError
from app.registry import DeploymentStatus, EventLevel, Registry, RequestStatus

from .conftest import Child

CONTROLLER = """
import sys
from app.registry import Registry, RequestStatus
registry = Registry.open(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
registry.close()
"""

UNDER_WAY = """
import sys
from app.registry import DeploymentStatus, Registry, RequestStatus
from app.serving import Serving
registry = Registry.open(sys.argv[1])
pending = registry.requests.add(model_name="m", prompt="pending")
half = registry.requests.add(model_name="m", prompt="half")
registry.requests.update(half.id, status=RequestStatus.PROCESSING, result="The capital", token_ids=[1, 2])
done = registry.requests.add(model_name="m", prompt="done")
registry.requests.update(done.id, status=RequestStatus.COMPLETED, result="Paris.")
for id, status in (("aaaaaaaa", DeploymentStatus.LOADING), ("bbbbbbbb", DeploymentStatus.READY)):
    registry.deployments.add(id=id, model_name="m", plan_hash="", serving=Serving("", 1, 1), status=status)
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_second_controller_is_told_which_process_is_the_first(location: str, child: Child) -> None:
    first = child.start(CONTROLLER, location)
    assert child.line(first) == "open"
    with pytest.raises(RegistryError, match=rf"in use by another Shardboard \(process {first.pid} on ") as raised:
        Registry.open(location)
    assert "Close the other Shardboard" in raised.value.advice


def test_a_second_controller_in_the_same_process_is_refused_too(location: str) -> None:
    with Registry.open(location) as first:
        with pytest.raises(RegistryError, match=rf"process {os.getpid()} on "):
            Registry.open(location)
        assert first.nodes.list() == []


def test_a_registry_that_was_closed_can_be_opened_again(location: str) -> None:
    for _ in range(3):
        Registry.open(location).close()
    with Registry.open(location) as registry:
        registry.close()  # a second closing does no harm


def test_one_file_under_two_names_is_one_registry(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    try:
        link.symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("this account may not make links")
    with Registry.open(file), pytest.raises(RegistryError, match="in use"):
        Registry.open(link / file.name)


def test_a_killed_controller_does_not_block_the_next(location: str, child: Child) -> None:
    first = child.start(CONTROLLER, location)
    assert child.line(first) == "open"
    child.kill(first)
    open_when_freed(location).close()


def test_what_was_under_way_when_the_program_died_is_marked_failed(location: str, child: Child) -> None:
    first = child.start(UNDER_WAY, location)
    assert child.line(first) == "open"
    child.kill(first)
    with open_when_freed(location) as registry:
        done, half, pending = registry.requests.list()
        assert (done.status, done.error, done.result) == (RequestStatus.COMPLETED, None, "Paris.")
        for request in (half, pending):
            assert request.status is RequestStatus.FAILED
            assert request.error == "Shardboard ended while this was under way."
            assert request.completed_at is not None and request.completed_at >= request.created_at
        assert (half.result, half.token_ids) == ("The capital", (1, 2))
        assert registry.deployments.get("aaaaaaaa").status is DeploymentStatus.FAILED
        assert registry.deployments.get("bbbbbbbb").status is DeploymentStatus.READY
        (event,) = registry.events.list(level=EventLevel.WARNING)
        assert event.details == {"requests": 2, "deployments": ["aaaaaaaa"], "jobs": 0}
    with Registry.open(location) as registry:
        assert registry.events.count() == 1


def test_beside_a_controller_one_can_look_and_write_and_nothing_is_marked(location: str) -> None:
    with Registry.open(location) as controller, Registry.open(location, lock=False) as beside:
        request = controller.requests.add(model_name="m", prompt="p")
        assert beside.requests.get(request.id) == request
        event = beside.events.add(EventLevel.INFO, "test", "from beside")
        assert controller.events.list() == [event]
        with Registry.open(location, lock=False) as third:
            assert third.requests.get(request.id).status is RequestStatus.PENDING


def test_without_a_controller_a_registry_can_be_opened_without_being_one(location: str) -> None:
    with Registry.open(location, lock=False) as looking:
        assert looking.requests.list() == []
        Registry.open(location).close()


def open_when_freed(location: str) -> Registry:
    """Open the registry of a controller that was just killed: a server takes a moment to notice."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return Registry.open(location)
        except RegistryError:
            if "://" not in location or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
