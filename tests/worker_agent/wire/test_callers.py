"""Which controller drives which deployment, and when it counts as silent."""

from __future__ import annotations

from worker_agent.wire.callers import FORGET_SECONDS, SILENCE_SECONDS, Caller, Callers

CONTROL, WEIGHTS = Caller("key", b"control"), Caller("key", b"weights")
NEWER = Caller("key", b"control of a later process")


def test_a_deployment_belongs_to_whoever_drove_it_last() -> None:
    callers = Callers()
    assert callers.owner("d") is None
    callers.claim("d", CONTROL)
    callers.claim("d", NEWER)
    assert callers.owner("d") == NEWER
    callers.release("d")
    assert callers.owner("d") is None


def test_silence_is_told_once_and_again_after_a_word() -> None:
    callers = Callers()
    callers.greet(CONTROL, "boot", now=0)
    callers.claim("d", CONTROL)
    assert callers.fallen_silent(SILENCE_SECONDS - 0.1) == []
    assert callers.fallen_silent(SILENCE_SECONDS) == ["d"]
    assert callers.fallen_silent(SILENCE_SECONDS + 1) == []
    callers.heard(CONTROL, now=20)
    assert callers.fallen_silent(20 + SILENCE_SECONDS) == ["d"]


def test_a_process_is_heard_on_any_of_its_connections() -> None:
    callers = Callers()
    callers.greet(CONTROL, "boot", now=0)
    callers.greet(WEIGHTS, "boot", now=0)
    callers.claim("d", CONTROL)
    callers.heard(WEIGHTS, now=SILENCE_SECONDS - 1)
    assert callers.fallen_silent(SILENCE_SECONDS + 5) == []


def test_a_later_process_with_the_same_key_does_not_speak_for_the_earlier_one() -> None:
    callers = Callers()
    callers.greet(CONTROL, "first boot", now=0)
    callers.claim("old", CONTROL)
    callers.greet(NEWER, "second boot", now=SILENCE_SECONDS - 1)
    callers.claim("new", NEWER)
    assert callers.fallen_silent(SILENCE_SECONDS + 1) == ["old"]


def test_connections_that_are_long_gone_are_forgotten_but_not_those_that_drive_something() -> None:
    callers = Callers()
    callers.greet(CONTROL, "first boot", now=0)
    callers.claim("d", CONTROL)
    for number in range(100):
        callers.greet(Caller("key", str(number).encode()), f"boot {number}", now=0)
    callers.fallen_silent(FORGET_SECONDS + 1)
    assert len(callers) == 1
    assert callers.owner("d") == CONTROL
