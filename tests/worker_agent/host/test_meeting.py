"""The agent's side of a meeting as a state machine: whom it comes to trust, and whom not."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from worker_agent.host.meeting import MOST_FAILED, READ_SECONDS, REVEAL_SECONDS, Answer, Reception
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.meeting import MEETING_SECONDS, commitment_to, fresh_nonce, meeting_code, spoken
from worker_agent.wire.messages import (
    WIRE_VERSION,
    Committed,
    Confirm,
    ControlMessage,
    Failed,
    Health,
    Meet,
    Met,
    Reveal,
    Revealed,
)

AGENT, CONTROLLER, STRANGER = (KeyPair.make().public for _ in range(3))
MEET = Meet(call=1, name="desk", oldest=WIRE_VERSION, newest=WIRE_VERSION)
CONFIRM = Confirm(call=3)


class Scene:
    """A reception, what it has shown, and a clock."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.now = 0.0
        self.reception = Reception(AGENT, "attic", self.shown.append)

    def send(self, message: ControlMessage, key: str = CONTROLLER, route: bytes = b"c") -> list[ControlMessage]:
        answers = self.reception.take(key, route, message, self.now)
        assert all(answer.route == route for answer in answers), "nobody else hears of it"
        return [answer.message for answer in answers]

    def code(self, key: str = CONTROLLER, route: bytes = b"c") -> str:
        """Up to the code, as that controller computes it."""
        [committed] = self.send(MEET, key, route)
        nonce = fresh_nonce()
        [revealed] = self.send(Reveal(call=2, nonce=nonce), key, route)
        assert isinstance(committed, Committed) and isinstance(revealed, Revealed)
        assert committed.commitment == commitment_to(revealed.nonce, AGENT, key)
        return meeting_code(AGENT, key, revealed.nonce, nonce)

    def type(self, line: str, after: float = READ_SECONDS) -> list[Answer]:
        self.now += after
        return self.reception.hear(line, self.now)


def test_a_controller_is_trusted_when_it_has_confirmed_and_somebody_has_said_yes() -> None:
    scene = Scene()
    code = scene.code()
    assert spoken(code) in scene.shown[-1], "both ends have the same code"
    assert scene.type("y\n") == [] and scene.reception.trusted is None, "nothing was asked yet"
    assert scene.send(CONFIRM) == [] and "[y/N]" in scene.shown[-1]
    assert scene.type("y\n", after=0.0) == [], "typed before it could be read"
    assert scene.type("yes\n") == [Answer(b"c", Met(call=3))]
    assert scene.reception.trusted == (CONTROLLER, "desk")


def test_what_is_not_a_yes_is_a_no() -> None:
    scene = Scene()
    scene.code()
    scene.send(CONFIRM)
    [answer] = scene.type("perhaps\n")
    assert isinstance(answer.message, Failed) and answer.message.call == 3
    assert (scene.reception.trusted, scene.reception.failed) == (None, 1)
    assert scene.type("y\n") == [] and scene.reception.trusted is None, "it was about a meeting that is over"


def test_nobody_else_takes_part_in_a_meeting() -> None:
    scene = Scene()
    scene.code()
    for message in (MEET, Reveal(call=2, nonce=fresh_nonce()), CONFIRM, Health(call=9)):
        for route in (b"s", b"c"):  # also under a connection's stolen name
            [refused] = scene.send(message, STRANGER, route)
            assert isinstance(refused, Failed)
    assert scene.send(Failed(call=0, kind="ended", message=""), STRANGER) == []
    assert scene.send(CONFIRM) == [] and scene.type("y\n"), "and the meeting has gone on"


def test_the_steps_of_a_meeting_keep_their_order() -> None:
    """Else a controller could choose its nonce when it knows the agent's, and grind for a code."""
    scene = Scene()
    reveal = Reveal(call=2, nonce=fresh_nonce())
    for message in (reveal, CONFIRM):
        assert isinstance(scene.send(message)[0], Failed)
    scene.send(MEET)
    assert isinstance(scene.send(CONFIRM)[0], Failed)
    assert isinstance(scene.send(reveal)[0], Revealed)
    assert isinstance(scene.send(Reveal(call=2, nonce=fresh_nonce()))[0], Failed), "no second try"


def test_a_meeting_that_stands_still_is_over_and_too_many_end_the_wait() -> None:
    scene = Scene()
    scene.send(MEET)
    scene.now += REVEAL_SECONDS
    scene.reception.tick(scene.now)
    assert scene.reception.failed == 0, "nothing was shown for it"
    for count in range(1, MOST_FAILED + 1):
        scene.code(STRANGER if count % 2 else CONTROLLER)
        scene.now += MEETING_SECONDS
        [answer] = scene.reception.tick(scene.now)
        assert isinstance(answer.message, Failed) and scene.reception.failed == count
    assert scene.reception.is_over and scene.reception.trusted is None
    assert isinstance(scene.send(MEET)[0], Failed)


def test_names_from_strangers_cannot_move_the_terminals_cursor() -> None:
    scene = Scene()
    scene.send(Meet(call=1, name="\x1b[2Jdesk\n", oldest=WIRE_VERSION, newest=WIRE_VERSION))
    scene.send(Reveal(call=2, nonce=fresh_nonce()))
    assert "\x1b" not in scene.shown[-1] and "desk" in scene.shown[-1]


def test_somebody_between_the_two_gets_another_code_on_each_side() -> None:
    """He speaks with the agent as a controller, with the controller as an agent, each under a key of his own."""
    scene = Scene()
    shown = scene.code(STRANGER)
    his, nonce = fresh_nonce(), fresh_nonce()  # he commits to his before the controller's nonce is known
    codes = {meeting_code(STRANGER, CONTROLLER, his, nonce), shown}
    assert len(codes) == 2  # equal by chance once in a million runs
    assert meeting_code(AGENT, STRANGER, his, nonce) != meeting_code(STRANGER, AGENT, his, nonce), "roles are bound"


step = st.tuples(
    st.sampled_from([CONTROLLER, STRANGER]),
    st.sampled_from(["meet", "reveal", "confirm", "failed", "health", "y", "n", "wait"]),
)


@given(st.lists(step, max_size=40))
@settings(max_examples=300)
def test_whatever_comes_only_a_yes_to_a_confirmed_meeting_makes_trust(steps: list[tuple[str, str]]) -> None:
    scene = Scene()
    messages: dict[str, ControlMessage] = {
        "meet": MEET, "reveal": Reveal(call=2, nonce=fresh_nonce()), "confirm": CONFIRM,
        "failed": Failed(call=0, kind="ended", message="x"), "health": Health(call=7),
    }  # fmt: skip
    asked: str | None = None
    for key, what in steps:
        before = len(scene.shown)
        if what in messages:
            scene.send(messages[what], key, key.encode())
        elif what == "wait":
            scene.now += 60.0
            scene.reception.tick(scene.now)
        else:
            trusted = scene.reception.trusted
            scene.type(f"{what}\n")
            if trusted is None and scene.reception.trusted is not None:
                assert what == "y" and scene.reception.trusted[0] == asked
        for text in scene.shown[before:]:
            asked = key if "[y/N]" in text else None
