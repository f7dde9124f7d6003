"""One step of a stage: who goes, who comes, whose turn it is, and what comes out.

Behind `Executor.step` stand the ways in which a stage can run: the ragged batch, where many sequences share a pass
(recorded, where that could be done; on a GPU in fixed shapes that are captured), and a pass for each sequence with
transformers' own cache, in lockstep where the layers allow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch

from worker_agent.engine.attention import Segment, filled_up, ragged_step
from worker_agent.engine.capture import capture_for, or_as_it_is
from worker_agent.engine.memory.aside import Aside
from worker_agent.engine.memory.own import OwnCache, OwnState
from worker_agent.engine.memory.pages import PagePool
from worker_agent.engine.memory.pool import StatePool
from worker_agent.engine.memory.rows import RaggedCache, RowPool, RowState
from worker_agent.engine.memory.states import SequenceState
from worker_agent.engine.prefixes import KEPT_SEQUENCES
from worker_agent.engine.stage import Stage
from worker_agent.engine.static import StaticSteps
from worker_agent.model import rotary
from worker_agent.wire.errors import OutOfStep
from worker_agent.wire.messages import JournalStep, Shared, StageInfo


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
        self._ways = stage.ways.report()
        load = stage.load
        capacity = min(load.kv_tokens, load.max_context)
        slots, int8 = load.max_sequences + KEPT_SEQUENCES, stage.kv_dtype == "int8"
        self._rows = RowPool(slots, capacity, int8=int8)
        self.static: StaticSteps | None = None
        """Runs the steps of one token of each sequence, where they have fixed shapes."""
        if stage.static:
            self._rows = pages = PagePool(slots, capacity, load.kv_tokens, int8=int8)
            capture = or_as_it_is(capture_for(stage.device), self._not_captured)
            self.static = StaticSteps(stage.slice, pages, load.max_sequences, capture, stage.device)
        self.slots: tuple[int, ...] = ()
        """Where the states of the last step's turns lie in the pool."""
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
        self.slots = tuple(state.slot for state in states)
        return self._run(plan.turns, states, plan.given)

    @torch.inference_mode()
    def recompute(self, step: JournalStep, given: torch.Tensor) -> torch.Tensor:
        """Run a step that once ran on a stage that was lost, in its shape, so that its bits are those of then.

        Rows of sequences that nobody needs run over states of the right length that hold nothing, which attention for
        many at once looks at, but mixes with nobody's. Where each sequence has a pass of its own, over an empty one.

        Returns hidden states [tokens, hidden], of which those of such rows mean nothing; on the last stage no rows.
        Raises OutOfStep, OutOfMemory.
        """
        memory = self.memory
        for piece in step.pieces:
            if piece.known is not None and not piece.fills:
                memory.release(piece.sequence)
                memory.admit(piece.sequence, piece.known, piece.shared)
        if self.stage.batched:
            mine = {piece.sequence: piece.slot for piece in step.pieces if not piece.fills}
            memory.place(mine, {piece.slot for piece in step.pieces if piece.fills})
        turns = [Turn(piece.sequence, piece.position, piece.count, range(0)) for piece in step.pieces]
        states, filling = [], []
        try:
            for piece, turn in zip(step.pieces, turns, strict=True):
                if piece.fills:
                    filling.append(self._new_state(piece.slot))
                    if isinstance(state := filling[-1], RowState):
                        state.stand_in(piece.position)
                    states.append(filling[-1])
                else:
                    states.append(self._at(turn))
            return self._run(turns, states, given)
        finally:
            for state in filling:
                state.release()

    def info(self, epoch: int, journal_bytes: int) -> StageInfo:
        """What the agent reports of the stage."""
        stage, load, memory = self.stage, self.stage.load, self.memory
        return StageInfo(
            deployment=load.deployment,
            plan=load.plan,
            epoch=epoch,
            stage=load.stage,
            stages=load.stages,
            start=load.start,
            end=load.end,
            model=load.model,
            weight_bytes=stage.weight_bytes,
            kv_bytes=stage.kv_bytes,
            kv_tokens=load.kv_tokens,
            kv_used_tokens=memory.used_tokens,
            kv_held_bytes=memory.nbytes,
            sequences=memory.sequences,
            ways=self._ways,
            reuse=stage.reuse,
            quantize=load.quantize,
            weights_error=stage.weights_error,
            kv_dtype=stage.kv_dtype,
            kv_error=stage.kv_error,
            kv_kept_tokens=memory.kept_tokens,
            journal_bytes=journal_bytes,
            answers_alone=stage.answers_alone,
            block_tokens=stage.block_tokens,
        )

    def _not_captured(self, why: str) -> None:
        """Have the stage's reports say so from now on."""
        tally = self.stage.ways["captured"]
        tally.taken, tally.why = 0, why
        self._ways = self.stage.ways.report()

    def clear(self) -> None:
        """Forget all sequences."""
        self.memory.clear()

    def close(self) -> None:
        """Let go of all states, and of the address space where they were."""
        self.clear()
        self.static = None
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
        if self.static is not None and self.static.takes([turn.count for turn in turns]):
            output = self.static.run(given, states)
            if self.stage.is_last and not all(turn.wanted for turn in turns):
                return output[[place for place, turn in enumerate(turns) if turn.wanted]]
            return output
        segments: list[Segment] = []
        sampled: list[int] = []
        start = 0
        for turn, state in zip(turns, states, strict=True):
            segments.append(Segment(state, start, start + turn.count))
            sampled += [start + place for place in turn.wanted]
            start += turn.count
        positions = [position for turn in turns for position in range(turn.position, turn.position + turn.count)]
        if self.stage.slice.fills_up:
            given = filled_up(given, positions, len(turns) == start)
        with self._known_lengths(turns), ragged_step(segments):
            output = self._forward(given, positions, sampled, RaggedCache())
        # Cut back by copying: what is kept of it, to be sent again, would keep the rows in vain, too.
        return output if self.stage.is_last or len(output) == start else output[:start].clone()

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
