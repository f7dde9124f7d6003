"""A stage's one pool of memory for sequences: who has how much of it, and what becomes of it.

How many tokens all of them may keep is the first stage's to count (`scheduler.py`), which decides for all stages who
is admitted, who yields and what is kept for later; each stage does as it is told, in the order of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from worker_agent.engine.memory.aside import Aside
from worker_agent.engine.memory.states import Exported, SequenceState
from worker_agent.wire.errors import OutOfStep
from worker_agent.wire.messages import HeldState, Resumed, Shared, StateKind, StatePart


class StatePool:
    """The states of all sequences on a stage.

    Args:
        make: an empty state, in a slot of the stage's pool (-1: in any).
        aside: where states go that yield.
    """

    def __init__(self, make: Callable[[int], SequenceState], aside: Aside) -> None:
        self._make, self._aside = make, aside
        self._states: dict[int, SequenceState] = {}
        self._kept: set[int] = set()
        self._known: dict[int, int] = {}
        self._sizes: dict[int, tuple[int, int, int]] = {}
        """Of each sequence version, length and bytes of its state, when it was last looked at."""

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._states or sequence in self._aside

    def __getitem__(self, sequence: int) -> SequenceState:
        """A sequence's state, taken back first if it was set aside. Raises KeyError, OutOfStep, OutOfMemory."""
        if sequence not in self._states and sequence in self._aside:
            state = self._make(-1)
            self._states[sequence] = state
            self._aside.take(sequence, state)
        return self._states[sequence]

    @property
    def sequences(self) -> int:
        """How many run."""
        return len(self._states) - len(self._kept)

    @property
    def used_tokens(self) -> int:
        """Tokens of the sequences that run."""
        return sum(state.length for number, state in self._states.items() if number not in self._kept)

    @property
    def kept_tokens(self) -> int:
        """Tokens of prompts and answers that are over, kept for prompts that begin in the same way."""
        return sum(self._states[number].length for number in self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes that all states take now. Only what has changed is counted: it is asked after every step that nothing
        follows, and dozens of states are kept that nobody touches."""
        sizes = {}
        for number, state in self._states.items():
            known = self._sizes.get(number)
            if known is None or known[:2] != (state.version, state.length):
                known = (state.version, state.length, state.nbytes)
            sizes[number] = known
        self._sizes = sizes
        return sum(nbytes for _, _, nbytes in sizes.values())

    def known(self, sequence: int) -> int:
        """How long a sequence was known to become when it was admitted: its prompt, seen from its first piece."""
        return self._known.get(sequence, 0)

    def admit(self, sequence: int, known: int, shared: Shared | None = None) -> None:
        """Begin a sequence, with the first tokens of another one where it shares them.

        Raises OutOfStep, OutOfMemory.
        """
        self._known[sequence] = known
        if shared is None:
            self._states[sequence] = self._make(-1)
            return
        if shared.sequence not in self:
            raise OutOfStep("the tokens that a prompt shares with an earlier one are not in the KV cache any more")
        donor = self[shared.sequence]
        if shared.take:
            donor.truncate(shared.tokens)
            self._states[sequence] = self._states.pop(shared.sequence)
            self._forget(shared.sequence)
        else:
            self._states[sequence] = state = self._make(-1)
            state.copy_from(donor, shared.tokens)

    def keep(self, sequence: int) -> None:
        """A sequence is over, its state stays."""
        if sequence in self._states:
            self._kept.add(sequence)

    def set_aside(self, sequence: int) -> None:
        """A sequence yields: its state leaves memory until it goes on."""
        if sequence in self._states:
            self._aside.put(sequence, self._states[sequence])
            self._states.pop(sequence).release()

    def release(self, sequence: int) -> None:
        """Free what a sequence holds; nothing happens if it holds nothing."""
        if (state := self._states.pop(sequence, None)) is not None:
            state.release()
        self._aside.drop(sequence)
        self._forget(sequence)

    def served(self, sequence: int) -> None:
        """It was this sequence's turn: all others come before it now."""
        self._states[sequence] = self._states.pop(sequence)

    # --- for a stage that takes this one's place ---

    def parts(self) -> tuple[StatePart, ...]:
        """All states, each as one part: those that run, in the order in which they were served, and those aside."""
        here = tuple(
            StatePart(number, state.version, 0, state.length, self._kind(number), state.slot, self.known(number))
            for number, state in self._states.items()
        )
        aside = self._aside
        return here + tuple(
            StatePart(number, aside.version(number), 0, aside.length(number), "aside", -1, self.known(number))
            for number in aside
        )

    def token_bytes(self, sequence: int) -> int:
        """About what a token adds to a state that can be copied in parts; 0 where it is copied as a whole."""
        state = self._states.get(sequence)
        return state.token_bytes if state is not None and state.takes_parts else 0

    def exported(self, part: StatePart) -> Exported:
        """The tensors of a part. Raises OutOfStep."""
        state = self._states.get(part.sequence)
        return self._aside.exported(part.sequence) if state is None else state.exported(part.start, part.end)

    @torch.inference_mode()  # rows that a step has made can be written by nothing else
    def put(self, part: StatePart, tensors: Exported) -> None:
        """Put a part down where it was there, if that is free: behind what came of it before, or as a new state.

        Raises OutOfStep, OutOfMemory.
        """
        number = part.sequence
        if part.start == 0:
            self.release(number)
            taken = {state.slot for state in self._states.values()}
            self._states[number] = self._make(-1 if part.slot in taken else part.slot)
        state = self._states.get(number)
        if state is None or state.length != part.start:
            held = "nothing" if state is None else f"{state.length} tokens"
            raise OutOfStep(f"of sequence {number} {held} came before its part from token {part.start} on")
        state.imported(tensors, part.end)
        self._known[number] = part.known
        if part.kind == "kept":
            self._kept.add(number)
        elif part.kind == "aside":
            self.set_aside(number)

    # --- over the loss of another stage ---

    def held(self) -> tuple[HeldState, ...]:
        """All states, in the order in which they were served."""
        here = (
            HeldState(number, state.length, state.least, self._kind(number), state.slot)
            for number, state in self._states.items()
        )
        aside = self._aside
        return (*here, *(HeldState(number, aside.length(number), aside.least(number), "aside") for number in aside))

    def check_resumed(self, resumed: Sequence[Resumed]) -> None:
        """Raises OutOfStep where a state that is here cannot be cut back to its length."""
        lengths = {each.sequence: each.length for each in resumed if each.length}
        for state in self.held():
            length = lengths.get(state.sequence, state.length)
            if length != state.length and not state.least <= length < state.length:
                raise OutOfStep(
                    f"sequence {state.sequence} is to go on from its first {length} tokens; its state here holds "
                    f"{state.length} and can be cut back to {state.least} at least"
                )

    @torch.inference_mode()
    def resume(self, resumed: Sequence[Resumed]) -> None:
        """Keep the states of these, cut back and where they are wanted, and release all others. Raises OutOfStep."""
        wanted = {each.sequence: each for each in resumed if each.length}
        for number in [number for number in (*self._states, *self._aside) if number not in wanted]:
            self.release(number)
        for number, each in wanted.items():
            if number in self._states or (number in self._aside and self._aside.length(number) > each.length):
                self[number].truncate(each.length)
            elif number in self._aside and each.kind != "aside":
                self[number]
        self._kept = {number for number, each in wanted.items() if each.kind == "kept" and number in self._states}
        self.place({number: each.slot for number, each in wanted.items() if number in self._states})
        for number, each in wanted.items():
            if number in self._states:
                self.served(number)
                if each.kind == "aside":
                    self.set_aside(number)

    def place(self, slots: dict[int, int], free: Iterable[int] = ()) -> None:
        """Have states lie in these slots; -1 is anywhere. Whoever else is in the way, there or in the slots that are to
        be `free`, goes elsewhere.
        """
        wanted = {*slots.values(), *free} - {-1}
        moved = []
        for number, state in self._states.items():
            target = slots.get(number, -1)
            if state.slot >= 0 and (target != state.slot if target >= 0 else state.slot in wanted):
                moved.append(number)
        copies = []
        for number in moved:
            state = self._states[number]
            copies.append((state.length, {name: tensor.clone() for name, tensor in state.exported().items()}))
            state.release()
        blocked = [self._make(slot) for slot in free] if moved else []
        # Those that are to lie somewhere come before those that may lie anywhere.
        for number, (length, tensors) in sorted(
            zip(moved, copies, strict=True), key=lambda each: slots.get(each[0], -1) < 0
        ):
            self._states[number] = state = self._make(slots.get(number, -1))
            state.imported(tensors, length)
        for state in blocked:
            state.release()

    def _kind(self, number: int) -> StateKind:
        return "kept" if number in self._kept else "runs"

    def clear(self) -> None:
        for sequence in list(self._states):
            self.release(sequence)
        self._aside.clear()
        self._known.clear()

    def _forget(self, sequence: int) -> None:
        self._kept.discard(sequence)
        self._known.pop(sequence, None)
