"""Whatever sequences do, whichever stages are lost and whenever: what goes on is what all stages have in common.

The ring is simulated as far as states go: steps pass from stage to stage in order, each makes a state longer, and what
came round is certain, when the controller hears of it. Then stages are lost, and the ring is linked anew with what
`resumption` says, again and again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.inference.resumption import resumption
from worker_agent.wire.messages import HeldState, Resumed
from worker_agent.wire.messages.recovery import StateKind


@dataclass
class State:
    length: int
    kind: StateKind = "runs"


@dataclass(frozen=True)
class Step:
    """What a stage is told of one sequence: tokens more, that it is over and kept, or that it is released."""

    sequence: int
    tokens: int = 0
    then: str = ""


class RecoveryMachine(RuleBasedStateMachine):
    @initialize(stages=st.integers(1, 4))
    def begin(self, stages: int) -> None:
        self.states: list[dict[int, State]] = [{} for _ in range(stages)]
        self.waiting: list[deque[Step]] = [deque() for _ in range(stages)]
        """Steps on their way to each stage; the first one's are its own plans."""
        self.certain: dict[int, int] = {}
        self.recurrent: set[int] = set()
        self.ended: set[int] = set()
        """On the first stage, though the controller may not have heard of it."""
        self.unheard: list[Step] = []
        """What came round and the controller has not heard of yet."""
        self.sequences = 0

    # --- what happens without losses ---

    @precondition(lambda self: len(self.certain) < 5)
    @rule(recurrent=st.booleans())
    def a_sequence_begins(self, recurrent: bool) -> None:
        self.sequences += 1
        self.certain[self.sequences] = 0
        if recurrent:
            self.recurrent.add(self.sequences)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0), tokens=st.integers(1, 40))
    def the_first_stage_takes_a_step(self, which: int, tokens: int) -> None:
        number = self.running[which % len(self.running)]
        self.pass_on(0, Step(number, tokens))

    @precondition(lambda self: any(self.waiting))
    @rule(which=st.integers(0))
    def a_step_arrives(self, which: int) -> None:
        stages = [stage for stage, steps in enumerate(self.waiting) if steps]
        stage = stages[which % len(stages)]
        self.pass_on(stage, self.waiting[stage].popleft())

    @precondition(lambda self: self.unheard)
    @rule()
    def the_controller_hears_of_one(self) -> None:
        step = self.unheard.pop(0)
        if step.then:
            self.certain.pop(step.sequence, None)
        elif step.sequence in self.certain:
            self.certain[step.sequence] += step.tokens

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0), kept=st.booleans(), cancelled=st.booleans())
    def a_sequence_is_over(self, which: int, kept: bool, cancelled: bool) -> None:
        number = self.running[which % len(self.running)]
        self.ended.add(number)
        if cancelled:  # then the controller knows it first
            del self.certain[number]
        self.pass_on(0, Step(number, then="kept" if kept else "released"))

    @property
    def running(self) -> list[int]:
        return sorted(self.certain.keys() - self.ended)

    def pass_on(self, stage: int, step: Step) -> None:
        states = self.states[stage]
        if step.then == "released":
            states.pop(step.sequence, None)
        elif step.then == "kept":
            if step.sequence in states:
                states[step.sequence].kind = "kept"
        else:
            state = states.pop(step.sequence, State(0))
            state.length += step.tokens
            states[step.sequence] = state  # its turn comes after those of all others
        if stage + 1 < len(self.states):
            self.waiting[stage + 1].append(step)
        else:
            self.unheard.append(step)

    # --- losses ---

    @rule(lost=st.sets(st.integers(0, 3), max_size=3))
    def the_ring_breaks_and_is_linked_anew(self, lost: set[int]) -> None:
        left = [stage for stage in range(len(self.states)) if stage not in lost]
        if not left:
            self.restart({})
            return
        held = {stage: [self.told(number, state) for number, state in self.states[stage].items()] for stage in left}
        for number in self.running:  # the first stage also tells who has not begun
            if 0 in held and number not in self.states[0]:
                held[0].append(HeldState(number, 0, 0, "runs"))
        resumed = resumption(held, dict(self.certain), all_left=len(left) == len(self.states))
        self.check_each(held, resumed, all_left=len(left) == len(self.states))
        self.check_order(held, resumed)
        self.restart({each.sequence: State(each.length, each.kind) for each in resumed if each.length})

    def told(self, number: int, state: State) -> HeldState:
        least = state.length if number in self.recurrent else 0
        return HeldState(number, state.length, least, state.kind, number)

    def check_each(self, held: dict[int, list[HeldState]], resumed: tuple[Resumed, ...], *, all_left: bool) -> None:
        numbers = [each.sequence for each in resumed]
        assert len(set(numbers)) == len(numbers), "each is named once"
        assert set(self.certain) <= set(numbers), "whoever is under way is named"
        by_stage = [{state.sequence: state for state in states} for states in held.values()]
        for each in resumed:
            found = [states[each.sequence] for states in by_stage if each.sequence in states]
            if each.length:
                assert len(found) == len(by_stage), "a state goes on where all stages that are left have it"
                assert all(state.least <= each.length <= state.length for state in found), "and can be cut back to it"
            if each.sequence in self.certain:
                assert each.length in (0, self.certain[each.sequence]), "nothing that did not come round goes on"
                assert each.kind != "kept", "whoever is under way runs on, also where a stage believes him over"
                if len(found) == len(by_stage) and all(
                    state.least <= self.certain[each.sequence] <= state.length for state in found
                ):
                    assert each.length == self.certain[each.sequence], "what all have is not computed anew"
            else:
                assert each.kind == "kept" and all_left and each.length, "of those that are over only what was kept"

    def check_order(self, held: dict[int, list[HeldState]], resumed: tuple[Resumed, ...]) -> None:
        told = [state.sequence for state in held[min(held)]]
        under_way = {state.sequence for state in held[min(held)] if state.length > self.certain.get(state.sequence, 0)}
        order = [each.sequence for each in resumed if each.sequence in self.certain and each.sequence in told]
        turn = [number for number in told if number in self.certain]
        assert order == [n for n in turn if n in under_way] + [n for n in turn if n not in under_way]
        if 0 not in held:
            begun = {each.sequence for each in resumed if each.sequence in told}
            fresh = [each.sequence for each in resumed if each.sequence not in begun]
            assert [each.sequence for each in resumed][: len(fresh)] == fresh, "they come before all others"

    def restart(self, states: dict[int, State]) -> None:
        """Every stage has the same now: those that are left were cut back, the lost ones computed it again."""
        self.states = [{number: State(s.length, s.kind) for number, s in states.items()} for _ in self.states]
        self.waiting = [deque() for _ in self.states]
        self.unheard, self.ended = [], set()
        for number in self.certain:  # what begins anew reads its tokens, as a prompt
            if number not in states and self.certain[number]:
                tokens, self.certain[number] = self.certain[number], 0
                self.pass_on(0, Step(number, tokens))

    @invariant()
    def no_stage_is_ahead_of_the_one_before_it(self) -> None:
        """Of the simulation: what comes to a stage has passed all before it."""
        for stage, following in zip(self.states, self.states[1:], strict=False):
            for number, state in following.items():
                assert number not in stage or stage[number].length >= state.length


TestRecoveryMachine = RecoveryMachine.TestCase
TestRecoveryMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
