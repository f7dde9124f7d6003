"""The program's warnings become events: in order, without waiting, and never because of themselves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.event_log import WAITING, EventLogHandler
from app.registry import EventLevel, Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "registry.sqlite3") as opened:
        yield opened


@pytest.fixture
def handler(registry: Registry) -> Iterator[EventLogHandler]:
    made = EventLogHandler(registry)
    made.install()
    yield made
    made.close()


def test_warnings_and_errors_become_events_of_their_part(registry: Registry, handler: EventLogHandler) -> None:
    log = logging.getLogger("app.cluster.health")
    log.info("not this")
    log.warning("node %s is slow", "alpha")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("worker_agent.wire.links").exception("a link failed")
    logging.getLogger("zmq").error("nor this")
    handler.close()
    failed, slow = registry.events.list()
    assert (slow.level, slow.source, slow.message) == (EventLevel.WARNING, "health", "node alpha is slow")
    assert (failed.level, failed.source) == (EventLevel.ERROR, "links")
    assert failed.details["error"] == "ValueError: broken" and "Traceback" in str(failed.details["traceback"])


def test_what_the_registry_logs_of_itself_is_left_out(registry: Registry, handler: EventLogHandler) -> None:
    logging.getLogger("app.registry.writer").error("the disk is full")
    handler.close()
    assert registry.events.count() == 0


def test_a_message_that_cannot_be_formatted_is_kept_as_it_is(
    registry: Registry, handler: EventLogHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("app"), "propagate", False)  # pytest's own handler would refuse it
    logging.getLogger("app.x").warning("%d of them", "many")
    handler.close()
    assert registry.events.list()[0].message == "%d of them"


def test_who_logs_never_waits_and_what_is_too_much_is_counted(registry: Registry) -> None:
    handler = EventLogHandler(registry)
    handler.install()
    stuck, go_on = threading.Event(), threading.Event()

    def block(database: object) -> None:
        stuck.set()
        go_on.wait(20)

    blocking = threading.Thread(target=lambda: registry._store.write(block))
    blocking.start()
    assert stuck.wait(10)
    log = logging.getLogger("app.flood")
    for number in range(WAITING + 50):  # returns although nothing can be written
        log.warning("message %d", number)
    go_on.set()
    blocking.join()
    deadline = time.monotonic() + 30
    while registry.events.count(source="log") == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    while not handler._records.empty():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    handler.close()
    assert registry.events.count(source="flood") >= WAITING
    assert "came too fast" in registry.events.list(source="log")[0].message


def test_a_closed_handler_and_a_closed_registry_do_no_harm(registry: Registry) -> None:
    handler = EventLogHandler(registry)
    handler.install()
    registry.close()
    logging.getLogger("app.late").warning("too late")
    handler.close()
    handler.close()
    logging.getLogger("app.late").warning("later still")
    assert not handler._thread.is_alive()
