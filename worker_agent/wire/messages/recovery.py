"""Going on after a stage was lost: what the surviving stages keep of sequences, and how far they go back."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from worker_agent.wire.messages.fields import U32, U63, Call, Id, Position, SequenceNumber

MAX_STATES = 4096
"""Of so many sequences at most is told what a stage holds: a step has no more of them."""

StateKind = Literal["runs", "aside", "kept"]
"""Whether the sequence of a state runs, has yielded to others, or is over and left it for later prompts."""

Slot = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
"""Where in a stage's pool a state has its rows; -1 where it has none, or anywhere. Attention for many sequences at once
depends on how close together they lie, so half precision stays equal to the bit only if they lie as they did."""


class Halt(Call, tag="halt", kw_only=True, frozen=True):
    """Run nothing of this epoch any more, but keep all states until the next Link. Answered by Halted."""

    deployment: Id
    stage: U32
    epoch: U63


class HeldState(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """The state of one sequence on a stage that was halted."""

    sequence: SequenceNumber
    length: Position
    """Tokens that it holds."""
    least: Position
    """The fewest that it can be cut back to: none for keys and values, all of them for a recurrence."""
    kind: StateKind
    slot: Slot = -1


class Halted(Call, tag="halted", kw_only=True, frozen=True):
    """What the stage holds. After a step that failed half-way nothing of it is certain, and nothing is listed."""

    states: Annotated[tuple[HeldState, ...], Meta(max_length=MAX_STATES)]
    """In the order in which they were served, the one whose turn comes next first. The first stage also lists those
    that are to run and have not begun yet, with a length of 0."""


class Resumed(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A sequence that goes on over a Link, with the first `length` tokens of its state.

    With a length of 0 it begins anew; on the first stage it is waited for all the same.
    """

    sequence: SequenceNumber
    length: Position
    kind: StateKind = "runs"
    slot: Slot = -1


ResumedStates = Annotated[tuple[Resumed, ...], Meta(max_length=MAX_STATES)]
