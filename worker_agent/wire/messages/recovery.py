"""Going on after a stage was lost: what the surviving stages keep of sequences, and how far they go back."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from worker_agent.wire.messages.fields import U32, U63, Call, Id, Position, SequenceNumber, TensorFrame

MAX_STATES = 4096
"""Of so many sequences at most is told what a stage holds: a step has no more of them."""

MAX_NEEDED = 2 * MAX_STATES
"""Sequences that a journal covers, with those whose first tokens they share."""

MAX_JOURNAL_STEPS = 1024
MAX_JOURNAL_PIECES = 4096
"""So many pieces at most are in the steps that are read at once, unless it is one step: they share an envelope."""

StateKind = Literal["runs", "aside", "kept"]
"""Whether the sequence of a state runs, has yielded to others, or is over and left it for later prompts."""

Slot = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
"""Where in a stage's pool a state has its rows; -1 where it has none, or anywhere. Attention for many sequences at once
depends on how close together they lie, so half precision stays equal to the bit only if they lie as they did."""


class Shared(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Where the state of a sequence's first tokens comes from: another one that began with the same."""

    sequence: SequenceNumber
    tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    take: bool
    """Whether the other one is over, and its state becomes this one's without being copied."""


class Halt(Call, tag="halt", kw_only=True, frozen=True):
    """Run nothing of this epoch any more, but keep all states until the next Link. Answered by Halted."""

    deployment: Id
    stage: U32
    epoch: U63
    rest: bool = False
    """To the first stage: only begin no step any more; what is under way comes round, and can be awaited."""


class HeldState(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """The state of one sequence on a stage that was halted."""

    sequence: SequenceNumber
    length: Position
    """Tokens that it holds."""
    least: Position
    """The fewest that it can be cut back to: none for keys and values, all of them for a recurrence."""
    kind: StateKind
    slot: Slot = -1
    covered: bool = False
    """Whether this stage's journal has all from which the next stage's state of this sequence was computed."""


class Halted(Call, tag="halted", kw_only=True, frozen=True):
    """What the stage holds. After a step that failed half-way nothing of it is certain, and nothing is listed."""

    states: Annotated[tuple[HeldState, ...], Meta(max_length=MAX_STATES)]
    """In the order in which they were served, the one whose turn comes next first. The first stage also lists those
    that are to run and have not begun yet, with a length of 0."""
    under_way: U32 = 0
    """On the first stage: steps that have not come round."""


class Resumed(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A sequence that goes on over a Link, with the first `length` tokens of its state.

    With a length of 0 it begins anew; on the first stage it is waited for all the same.
    """

    sequence: SequenceNumber
    length: Position
    kind: StateKind = "runs"
    slot: Slot = -1


ResumedStates = Annotated[tuple[Resumed, ...], Meta(max_length=MAX_STATES)]


# --- computing again what was lost ---


class JournalPiece(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """The tokens of one sequence in a step that once ran."""

    sequence: SequenceNumber
    position: Position
    count: Annotated[int, Meta(ge=1, le=65536)]
    slot: Slot
    fills: bool = False
    """Whether it is there for the step's shape alone: nobody needs the state of its sequence."""
    known: Position | None = None
    """Of a sequence's first piece: how many tokens it was known to come to, as `Admission.total_tokens`."""
    shared: Shared | None = None
    """Of a sequence's first piece: whose first tokens it shares."""


class JournalStep(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A step that once ran. `number` orders them; it is not that of the ring."""

    number: U63
    pieces: Annotated[tuple[JournalPiece, ...], Meta(max_length=4096)]
    alone: bool
    """As `Step.alone`: with how many threads it was computed."""


NeededSequences = Annotated[tuple[SequenceNumber, ...], Meta(max_length=MAX_NEEDED)]

JournalSteps = Annotated[tuple[JournalStep, ...], Meta(max_length=MAX_JOURNAL_STEPS)]


class ReadJournal(Call, tag="read_journal", kw_only=True, frozen=True):
    """What were the states of these sequences computed from, on the stage behind this one? Answered by JournalPage."""

    deployment: Id
    stage: U32
    epoch: U63
    sequences: Annotated[tuple[SequenceNumber, ...], Meta(max_length=MAX_STATES)]
    after: U63 = 0
    """The number of the last step that was read."""
    steps: Annotated[int, Meta(ge=1, le=MAX_JOURNAL_STEPS)] = 64
    """At most so many at once."""
    shapes: bool = False
    """Without hidden states: for a first stage that was lost, which is given token ids."""
    every: bool = False
    """Of all sequences, whichever are named: for a stage that takes this one's place."""


class JournalPage(Call, tag="journal_page", kw_only=True, frozen=True):
    """Steps in order. One payload frame, unless only shapes were asked for or there are none: the hidden states of all
    their tokens, end to end."""

    steps: JournalSteps
    complete: bool
    """Whether there are no more."""
    hidden: TensorFrame | None = None
    needed: NeededSequences = ()
    """Where every sequence was asked for: those that the journal covers at this moment, and those that are over and
    whose first tokens they share."""


class Recompute(Call, tag="recompute", kw_only=True, frozen=True):
    """Run steps once more on a stage that takes the place of a lost one. Payload: frame 0, token ids (int32) for the
    first stage, else hidden states, of all tokens end to end.

    Only between a Link with `resumed` and the first step of its epoch. Answered by Done when they have run; a page that
    comes a second time is run once.
    """

    deployment: Id
    stage: U32
    epoch: U63
    steps: JournalSteps
    given: TensorFrame | None = None
    complete: bool
    """Whether these are the last: then all resumed states have to be there, and are cut back to their lengths."""
