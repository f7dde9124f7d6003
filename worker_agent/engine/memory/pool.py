"""A stage's one pool of memory for sequences: who has how much of it, and what becomes of it.

How many tokens all of them may keep is the first stage's to count (`scheduler.py`), which decides for all stages who
is admitted, who yields and what is kept for later; each stage does as it is told, in the order of the steps.
"""

from __future__ import annotations

from collections.abc import Callable

from worker_agent.engine.memory.aside import Aside
from worker_agent.engine.memory.states import SequenceState
from worker_agent.wire.errors import OutOfStep
from worker_agent.wire.messages import Shared


class StatePool:
    """The states of all sequences on a stage.

    Args:
        make: an empty state.
        aside: where states go that yield.
    """

    def __init__(self, make: Callable[[], SequenceState], aside: Aside) -> None:
        self._make, self._aside = make, aside
        self._states: dict[int, SequenceState] = {}
        self._kept: set[int] = set()
        self._known: dict[int, int] = {}

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._states or sequence in self._aside

    def __getitem__(self, sequence: int) -> SequenceState:
        """A sequence's state, taken back first if it was set aside. Raises KeyError, OutOfStep, OutOfMemory."""
        if sequence not in self._states and sequence in self._aside:
            state = self._make()
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
        """Bytes that all states take now."""
        return sum(state.nbytes for state in self._states.values())

    def known(self, sequence: int) -> int:
        """How long a sequence was known to become when it was admitted: its prompt, seen from its first piece."""
        return self._known.get(sequence, 0)

    def admit(self, sequence: int, known: int, shared: Shared | None = None) -> None:
        """Begin a sequence, with the first tokens of another one where it shares them.

        Raises OutOfStep, OutOfMemory.
        """
        self._known[sequence] = known
        if shared is None:
            self._states[sequence] = self._make()
            return
        if shared.sequence not in self:
            raise OutOfStep("the tokens that a prompt shares with an earlier one are not in the KV cache any more")
        donor = self[shared.sequence]
        if shared.take:
            donor.truncate(shared.tokens)
            self._states[sequence] = self._states.pop(shared.sequence)
            self._forget(shared.sequence)
        else:
            self._states[sequence] = state = self._make()
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

    def clear(self) -> None:
        for sequence in list(self._states):
            self.release(sequence)
        self._aside.clear()
        self._known.clear()

    def _forget(self, sequence: int) -> None:
        self._kept.discard(sequence)
        self._known.pop(sequence, None)
