"""One step of a stage: who goes, who comes, whose turn it is, and what comes out.

Behind `Executor.step` stand the ways in which a stage can run: the ragged batch, where many sequences share a pass
(recorded, where that could be done), and a pass for each sequence with transformers' own cache, in lockstep where the
layers allow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch

from worker_agent.engine.attention import Segment, ragged_step
from worker_agent.engine.memory.aside import Aside
from worker_agent.engine.memory.own import OwnCache, OwnState
from worker_agent.engine.memory.pool import StatePool
from worker_agent.engine.memory.rows import RaggedCache, RowPool, RowState
from worker_agent.engine.memory.states import SequenceState
from worker_agent.engine.prefixes import KEPT_SEQUENCES
from worker_agent.engine.stage import Stage
from worker_agent.model import rotary
from worker_agent.wire.errors import OutOfStep
from worker_agent.wire.messages import Shared


@dataclass(frozen=True, slots=True)
class Turn:
    """What a sequence does in a step: its tokens `[position, position + count)`.

    What it had at `position` and further on is forgotten first.
    """

    sequence: int
    position: int
    count: int
    wanted: range
    """After which of these tokens, counted from 0, logits are wanted."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A sequence that begins with this step."""

    sequence: int
    known: int
    """Tokens that it is known to come to: its prompt."""
    shared: Shared | None = None
    """Whose first tokens it shares."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What happens in a step, in this order; `given` are token ids or hidden states of all turns, end to end."""

    turns: tuple[Turn, ...]
    given: torch.Tensor
    released: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    aside: tuple[int, ...] = ()
    admitted: tuple[Admitted, ...] = ()


class Executor:
    """A stage and the states of the sequences that run through it. Belongs to the compute thread.

    Args:
        aside: a folder for the states of sequences that yield; None keeps them in memory.
    """

    def __init__(self, stage: Stage, aside: Path | None = None) -> None:
        self.stage = stage
        load = stage.load
        capacity = min(load.kv_tokens, load.max_context)
        self._rows = RowPool(load.max_sequences + KEPT_SEQUENCES, capacity, int8=stage.kv_dtype == "int8")
        self.memory = StatePool(self._new_state, Aside(aside, f"{load.deployment}-{load.stage}"))

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> torch.Tensor:
        """Run a step.

        Returns:
            Hidden states [tokens, hidden], or on the last stage logits [wanted of all turns, vocabulary]; without turns
            what was given.

        Raises:
            OutOfStep: a turn goes on where its sequence has not come to, or back to where its state cannot go.
        """
        memory = self.memory
        for number in plan.released:
            memory.release(number)
        for number in plan.kept:
            memory.keep(number)
        for number in plan.aside:
            memory.set_aside(number)
        for each in plan.admitted:
            memory.admit(each.sequence, each.known, each.shared)
        states = [self._at(turn) for turn in plan.turns]
        if not states:
            return plan.given
        return self._run(plan.turns, states, plan.given)

    def clear(self) -> None:
        """Forget all sequences."""
        self.memory.clear()

    def close(self) -> None:
        """Let go of all states, and of the address space where they were."""
        self.clear()
        self._rows.close()

    def _new_state(self, slot: int) -> SequenceState:
        return self._rows.state(slot) if self.stage.batched else self.stage.own_state()

    def _at(self, turn: Turn) -> SequenceState:
        """A sequence's state, cut back to where its turn begins."""
        if turn.sequence not in self.memory:
            raise OutOfStep(f"a step at position {turn.position} came for a sequence that never began here")
        state = self.memory[turn.sequence]
        self.memory.served(turn.sequence)
        if turn.position > state.length:
            raise OutOfStep(f"a step at position {turn.position} came to a KV cache of {state.length} tokens")
        if turn.position < state.length:
            state.truncate(turn.position)
        return state

    def _run(self, turns: Sequence[Turn], states: Sequence[SequenceState], given: torch.Tensor) -> torch.Tensor:
        if self.stage.batched:
            return self._run_ragged(turns, cast(Sequence[RowState], states), given)
        passes, start = [], 0
        for turn, state in zip(turns, cast(Sequence[OwnState], states), strict=True):
            passes.append(partial(self._run_alone, turn, state, given[start : start + turn.count]))
            start += turn.count
        outputs = [output for output in self.stage.lockstep.run(passes) if output is not None]
        return torch.cat(outputs) if outputs else given.new_empty(0, self.stage.vocab_size)

    def _run_ragged(self, turns: Sequence[Turn], states: Sequence[RowState], given: torch.Tensor) -> torch.Tensor:
        segments: list[Segment] = []
        sampled: list[int] = []
        start = 0
        for turn, state in zip(turns, states, strict=True):
            segments.append(Segment(state, start, start + turn.count))
            sampled += [start + place for place in turn.wanted]
            start += turn.count
        positions = [position for turn in turns for position in range(turn.position, turn.position + turn.count)]
        with self._known_lengths(turns), ragged_step(segments):
            return self._forward(given, positions, sampled, RaggedCache())

    def _run_alone(self, turn: Turn, state: OwnState, given: torch.Tensor) -> torch.Tensor | None:
        positions = list(range(turn.position, turn.position + turn.count))
        with self._known_lengths([turn]):
            output = self._forward(given, positions, list(turn.wanted), state.cache)
        state.length += turn.count
        return output if turn.wanted or not self.stage.is_last else None

    def _known_lengths(self, turns: Sequence[Turn]) -> AbstractContextManager[None]:
        if not self.stage.by_length:
            return nullcontext()
        spans, start = [], 0
        for turn in turns:
            length = max(self.memory.known(turn.sequence), turn.position + turn.count)
            spans.append((start, start + turn.count, length))
            start += turn.count
        return rotary.sequence_lengths(spans)

    def _forward(
        self, given: torch.Tensor, positions: list[int], sampled: list[int], cache: RaggedCache | OwnCache
    ) -> torch.Tensor:
        """One pass of the model over `given`; hidden states [tokens, hidden] or logits [len(sampled), vocabulary]."""
        stage = self.stage
        places = torch.tensor([positions], device=stage.device)
        # A step of inner chunks alone wants no logits; one row is the least that the head can be given.
        rows = torch.tensor(sampled or [0], device=stage.device)
        if stage.recording is not None and stage.batched:
            output = stage.recording(given[None], places, rows)[0]
        else:
            output = stage.slice.run(given[None], places, rows, cache)[0]
        return output if sampled or not stage.is_last else output[:0]
