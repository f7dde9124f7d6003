"""Order, resending and epochs of a ring whose network loses, doubles and reorders whatever it likes."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from worker_agent.engine.ring import RESEND_SECONDS, RingPlace, Verdict

Message = tuple[int, int, int]
"""(epoch, step number, what it holds)."""
LANES = 4


class LossyRing(RuleBasedStateMachine):
    """Three stages; a step's content is its number, and each stage adds its own mark when it runs it."""

    @initialize(epoch=st.integers(1, 5))
    def begin(self, epoch: int) -> None:
        self.places: list[RingPlace[Message, Message]] = [RingPlace("plan", epoch) for _ in range(3)]
        self.wires: list[list[Message]] = [[], [], []]
        """What is under way to each stage; to the first one, what has gone round."""
        self.now, self.next, self.rounds = 0.0, 1, list[int]()
        self.ran: list[list[int]] = [[], [], []]
        self.relink()

    @rule(chance=st.integers(0, 19))
    def link_anew(self, chance: int) -> None:
        """Rarely: every new epoch forgets what went wrong in the one before."""
        if not chance:
            self.relink()

    def relink(self) -> None:
        for place in self.places:
            place.link(self.places[0].epoch + 1 if place is self.places[0] else self.places[0].epoch)
        self.next, self.rounds, self.ran = 1, [], [[], [], []]

    @rule()
    def send(self) -> None:
        first = self.places[0]
        if self.next - len(self.rounds) <= LANES:
            message = (first.epoch, self.next, self.next)
            self.ran[0].append(self.next)
            first.sent(self.next, message, self.now)
            self.wires[1].append(message)
            self.next += 1

    @rule(stage=st.integers(0, 2), place=st.integers(0, 30), keep=st.booleans())
    def deliver(self, stage: int, place: int, keep: bool) -> None:
        """Any message that is under way comes, and may come again later."""
        wire = self.wires[stage]
        if not wire:
            return
        epoch, number, content = wire[place % len(wire)] if keep else wire.pop(place % len(wire))
        if stage == 0:
            if self.places[0].came_round(epoch, number, self.now):
                assert content == number + 1100, "it went through both stages, once each"
                self.rounds.append(number)
            return
        verdict = self.places[stage].arrived("plan", epoch, f"boot {stage}", number, (epoch, number, content), self.now)
        if verdict is Verdict.AGAIN:
            self.wires[(stage + 1) % 3] += self.places[stage].again(number)
        assert verdict is not Verdict.RESTARTED

    @rule(stage=st.integers(1, 2))
    def run(self, stage: int) -> None:
        arrival = self.places[stage].take()
        if arrival is None:
            return
        epoch, number, content = arrival.given
        self.ran[stage].append(number)
        out = (epoch, number, content + (100 if stage == 1 else 1000))
        self.places[stage].brought(number, (out,), self.places[0].oldest(number))
        self.wires[(stage + 1) % 3].append(out)

    @rule(stage=st.integers(0, 2), place=st.integers(0, 30))
    def lose(self, stage: int, place: int) -> None:
        if self.wires[stage]:
            self.wires[stage].pop(place % len(self.wires[stage]))

    @rule(seconds=st.floats(0, 3 * RESEND_SECONDS))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.wires[1] += self.places[0].overdue(self.now)

    @invariant()
    def every_stage_runs_every_step_once_and_in_order(self) -> None:
        for ran in getattr(self, "ran", []):
            assert ran == list(range(1, len(ran) + 1))

    def teardown(self) -> None:
        """However it was until now: once the network is well again, everything that was sent comes round."""
        if not hasattr(self, "places"):
            return
        for _ in range(20 * LANES):
            self.now += 1000 * RESEND_SECONDS
            self.wires[1] += self.places[0].overdue(self.now)
            for stage in (1, 2, 0):
                for _ in range(len(self.wires[stage])):
                    self.deliver(stage, 0, False)
                for _ in range(2 * LANES):
                    if stage:
                        self.run(stage)
        assert sorted(self.rounds) == list(range(1, self.next))
        assert self.places[0].oldest(0) == 0


TestLossyRing = LossyRing.TestCase
TestLossyRing.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_a_stage_before_that_was_restarted_is_told_from_a_message_that_was_lost() -> None:
    place: RingPlace[str, str] = RingPlace("plan", 1)
    assert place.arrived("plan", 1, "one", 1, "", 0.0) is Verdict.DROPPED, "nothing runs before the first link"
    place.link(2)
    assert place.arrived("plan", 2, "one", 1, "a", 0.0) is Verdict.TAKEN
    assert place.arrived("plan", 2, "one", 1, "a", 0.0) is Verdict.WAITING
    assert place.arrived("plan", 2, "one", 3, "c", 0.0) is Verdict.DROPPED
    assert place.arrived("another", 2, "one", 2, "b", 0.0) is Verdict.DROPPED
    assert place.arrived("plan", 1, "one", 2, "b", 0.0) is Verdict.DROPPED
    assert place.arrived("plan", 2, "two", 2, "b", 0.0) is Verdict.RESTARTED
    assert place.dropped == 4


def test_after_a_fault_nothing_runs_until_the_next_link() -> None:
    place: RingPlace[str, str] = RingPlace("plan", 1)
    place.link(2)
    place.arrived("plan", 2, "one", 1, "a", 0.0)
    place.sent(1, "a", 0.0)
    place.fail()
    assert place.take() is None and not place.overdue(1e9) and not place.runs
    assert place.arrived("plan", 2, "one", 2, "b", 0.0) is Verdict.DROPPED
    place.link(3)
    assert place.arrived("plan", 3, "two", 1, "a", 0.0) is Verdict.TAKEN


def test_patience_grows_with_the_slowest_round() -> None:
    place: RingPlace[str, str] = RingPlace("plan", 1)
    place.link(2)
    place.sent(1, "slow", 0.0)
    assert place.overdue(RESEND_SECONDS - 0.1) == () and place.overdue(RESEND_SECONDS) == ("slow",)
    assert place.came_round(2, 1, RESEND_SECONDS + 5.0) and not place.came_round(2, 1, 9.0)
    place.sent(2, "next", 10.0)
    assert place.overdue(10.0 + 7.9 * 5) == () and place.overdue(10.0 + 8.1 * 5) == ("next",)
